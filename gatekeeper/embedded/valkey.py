"""Valkey with the durability that the gate needs."""

import signal
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gatekeeper.embedded.binaries import valkey_binary
from gatekeeper.embedded.engine import NO_CONFIG, Account, Engine, Launcher
from gatekeeper.embedded.folders import locked, make_folder

VALKEY_CONFIG: Mapping[str, str] = MappingProxyType(
    {
        "bind": "127.0.0.1",
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always",
        "no-appendfsync-on-rewrite": "no",
        "maxmemory-policy": "noeviction",
    }
)
"""What the gate needs of its Redis."""


class Valkey(Engine):
    """`url` is redis://127.0.0.1:PORT/0"""

    name = "valkey"
    signals = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0))

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def is_ready(self) -> bool:
        """Whether all data is loaded and it is this process that answers: in a race for the port it may be another."""
        with redis.Redis(port=self.port, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
            try:
                info: Any = client.info()
            except redis.RedisError:
                return False
        return bool(info["process_id"] == self.process.pid and not info["loading"])


def start_valkey(
    data: Path, *, port: int | None = None, config: Mapping[str, str] = NO_CONFIG, timeout: float = 60.0
) -> Valkey:
    """Start Valkey on `data` (made when missing, kept afterwards) and wait until it has loaded that.

    `port`: a free one when None. `config`: on top of VALKEY_CONFIG. `timeout`: seconds until it must be ready.
    Raises EngineError.
    """
    binary = valkey_binary()
    data = make_folder(data, 0o700)
    # A relative dir: no quoting rule for odd paths has to hold.
    options = {"dir": ".", **VALKEY_CONFIG, **config}
    command = [str(binary), *(word for name, value in options.items() for word in (f"--{name}", value))]
    with locked(data) as lock:
        launcher = Launcher(data, data, lock, Account())
        return launcher.start(Valkey, lambda free: [*command, "--port", str(free)], port, timeout)
