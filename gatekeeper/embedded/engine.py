"""A server process of ours: started, awaited, stopped, and never outliving its parent."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeVar

from gatekeeper.errors import GatekeeperError
from gatekeeper.process import die_with_parent

NO_CONFIG: Mapping[str, str] = MappingProxyType({})

_POLL = 0.02  # seconds
_LOG_TAIL = 12  # lines
_PORT_TRIES = 5


class EngineError(GatekeeperError):
    """An engine could not be started."""


class EngineMissing(EngineError):
    """No binary of the engine was found; the text says how to get one."""


class DataInUse(EngineError):
    """Another engine works in the data folder."""


class PortTaken(EngineError):
    """Something else listens on the engine's port."""


@dataclass
class Engine:
    """A running server; it stops when its `with` block ends."""

    port: int
    process: subprocess.Popen[bytes]
    data: Path

    name: ClassVar[str]
    signals: ClassVar[tuple[tuple[signal.Signals, float], ...]]
    """What stops it: sent in turn, each with the seconds that it is given."""

    @property
    def url(self) -> str:
        raise NotImplementedError

    @property
    def log(self) -> Path:
        return self.data / f"{self.name}.log"

    def is_ready(self) -> bool:
        raise NotImplementedError

    def stop(self) -> None:
        """Shut down in order, by force when that takes too long. Stopping twice does nothing."""
        for number, seconds in self.signals:
            self.process.send_signal(number)
            try:
                self.process.wait(seconds)
                return
            except subprocess.TimeoutExpired:
                continue

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


AnyEngine = TypeVar("AnyEngine", bound=Engine)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago.

    Below those that systems give to outgoing connections, one of which could take it before a server does.
    """
    for _ in range(50):
        with suppress(OSError), socket.create_server(("127.0.0.1", random.randrange(15_000, 32_000))) as server:
            return int(server.getsockname()[1])
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@dataclass(frozen=True)
class Account:
    """Who runs an engine; None is whoever we are."""

    uid: int | None = None
    gid: int | None = None

    def options(self) -> dict[str, Any]:
        return {} if self.uid is None else {"user": self.uid, "group": self.gid, "extra_groups": []}

    def may(self, path: Path, bits: int) -> bool:
        """Whether mode bits (4 read, 1 enter or execute) are granted on an existing path."""
        if self.uid is None:
            return True
        status = path.stat()
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid == self.gid else 0
        return status.st_mode >> shift & bits == bits


@dataclass(frozen=True)
class Launcher:
    data: Path
    cwd: Path
    lock: int
    account: Account

    def start(
        self, kind: type[AnyEngine], command: Callable[[int], list[str]], port: int | None, timeout: float
    ) -> AnyEngine:
        """Start on `port`, or on free ones until no other process is faster."""
        for _ in range(_PORT_TRIES - 1 if port is None else 0):
            try:
                return self._start(kind, command, free_port(), timeout)
            except PortTaken:
                continue
        return self._start(kind, command, port or free_port(), timeout)

    def _start(
        self, kind: type[AnyEngine], command: Callable[[int], list[str]], port: int, timeout: float
    ) -> AnyEngine:
        with (self.data / f"{kind.name}.log").open("ab") as log:
            log_start = log.tell()
            process = self._spawn(command(port), log.fileno(), kind.signals[0][0])
        engine = kind(port, process, self.data)
        try:
            _wait_until_ready(engine, log_start, timeout)
        except BaseException:
            engine.stop()
            raise
        return engine

    def _spawn(self, command: list[str], log: int, last_word: signal.Signals) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=self.cwd,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # A terminal's Ctrl-C is for the supervisor, which then stops its engines in order.
            start_new_session=True,
            # The engine and its children hold the folder's lock for as long as one of them lives.
            pass_fds=[self.lock],
            preexec_fn=die_with_parent(last_word),
            **self.account.options(),
        )


def _wait_until_ready(engine: Engine, log_start: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not engine.is_ready():
        exit_code = engine.process.poll()
        if exit_code is None and time.monotonic() < deadline:
            time.sleep(_POLL)
            continue
        output = engine.log.read_bytes()[log_start:].decode(errors="replace")
        happened = f"is not ready after {timeout:g} s" if exit_code is None else f"ended with code {exit_code}"
        tail = "\n".join(output.splitlines()[-_LOG_TAIL:])
        error = PortTaken if "ddress already in use" in output else EngineError
        raise error(f"{engine.name} on port {engine.port} {happened}; end of {engine.log}:\n{tail}")


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
