"""Run the front door under uvicorn: one process, or several with one parent that replaces what dies."""

import asyncio
import gc
import os
import signal
import socket
import sys
from functools import partial

import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

from gatekeeper.errors import GatekeeperError, GateUnavailable, SettingsError
from gatekeeper.gate import connect
from gatekeeper.http import contract
from gatekeeper.http.app import FrontDoor, create_app
from gatekeeper.http.auth import Keyring
from gatekeeper.http.fastlane import FastLane
from gatekeeper.http.guard import GuardedProtocol
from gatekeeper.metrics import shared_folder
from gatekeeper.selfcheck import check_redis
from gatekeeper.settings import Settings

BACKLOG = 2048
GARBAGE = 50_000
"""Objects, made and not yet freed, after which Python looks for garbage."""
GRACE_SECONDS = 10
"""How long connections may take to end after SIGTERM."""


class ServeError(GatekeeperError):
    """The front door could not start; the text says what to do."""


def serve(
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    fd: int = -1,
    fast_lane: bool = True,
) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code, 0 after an orderly stop.

    `port`: 0 takes a free one. `fast_lane`: purchases skip ASGI. `fd`: a listening socket to take over, instead of
    host and port. Says on stderr where it listens. Raises SettingsError (no keys, Redis wrongly set) and ServeError
    (port taken) before anything starts.
    """
    Keyring(settings)
    asyncio.run(_check(settings))
    listener = socket.socket(fileno=fd) if fd >= 0 else _listen(host, port)
    with listener:
        print(
            f"listening on {_address(listener)} with {workers} worker{'s'[: workers > 1]}", file=sys.stderr, flush=True
        )
        config = _config(settings, workers, _protocol(fast_lane))
        return _run_many(config, listener) if workers > 1 else _run_one(config, listener)


async def _check(settings: Settings) -> None:
    """Refuse here, once, what every worker would refuse; an unreachable Redis is waited for by the workers."""
    client = connect(settings.require("redis_url").redis_url, timeout=settings.redis_timeout)
    try:
        problems = await check_redis(client, settings.durability)
    except GateUnavailable as error:
        print(f"warning: {error}; answering 503 until it can", file=sys.stderr, flush=True)
        return
    finally:
        await client.aclose()
    if problems:
        raise SettingsError("\n".join(("this Redis cannot be trusted with a sale:", *problems)))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error
        raise ServeError(
            f"cannot listen on {host}:{port} ({reason}): stop what listens there, or choose another with --port"
        ) from None


def _address(listener: socket.socket) -> str:
    name = listener.getsockname()
    if not isinstance(name, tuple):
        return str(name)
    return f"http://[{name[0]}]:{name[1]}" if ":" in name[0] else f"http://{name[0]}:{name[1]}"


def _protocol(fast_lane: bool) -> type[asyncio.Protocol]:
    """What reads the connections: the fastest that works with this uvicorn."""
    if problem := contract.broken():
        print(f"warning: {problem}; serving without fast lane and limits of our own", file=sys.stderr, flush=True)
        return HttpToolsProtocol
    return FastLane if fast_lane else GuardedProtocol


def _config(settings: Settings, workers: int, protocol: type[asyncio.Protocol]) -> uvicorn.Config:
    return uvicorn.Config(
        # Not an import string: the workers get these very settings, whatever their environment says.
        partial(_app, settings),
        factory=True,
        workers=workers,
        loop="uvloop",
        http=protocol,
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def _app(settings: Settings) -> FrontDoor:
    """What each process serves."""
    app = create_app(settings)
    calm_collector()
    return app


def calm_collector() -> None:
    """Let Python look for garbage less often, and not among what is there by now.

    Purchases in flight are many objects and hardly ever garbage that only the collector finds: with Python's own
    settings it takes a tenth of the time to look at them, and 30 ms at once to look at all modules.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE, 20, 100)


def _run_one(config: uvicorn.Config, listener: socket.socket) -> int:
    server = uvicorn.Server(config)
    # Having stopped in order, uvicorn raises the signal again for whoever was there before it.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run([listener])
    except SystemExit:  # uvicorn has logged why
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _run_many(config: uvicorn.Config, listener: socket.socket) -> int:
    with shared_folder() as folder:
        supervisor = _Workers(config, [listener], folder)
        supervisor.run()
    return 1 if supervisor.failed else 0


class _Workers(Multiprocess):
    """uvicorn's parent process, which also drops the live gauges of a worker that died."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket], folder: str) -> None:
        super().__init__(config, sockets)
        self.failed = False
        self._folder = folder

    def keep_subprocess_alive(self) -> None:
        stopping = self.should_exit.is_set()
        before = {process.pid for process in self.processes}
        super().keep_subprocess_alive()
        for pid in before - {process.pid for process in self.processes}:
            mark_process_dead(pid, self._folder)  # type: ignore[no-untyped-call]
        # Only a worker that fails to start makes it stop by itself.
        self.failed = self.failed or (self.should_exit.is_set() and not stopping)
