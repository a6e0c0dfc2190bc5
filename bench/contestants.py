"""Who takes part, and how each is started, stocked and asked what it did."""

import json
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bench import processes
from bench.baselines import evalsha, postgres
from bench.cells import LOADS, STOCKS, Cell
from bench.target import Target, sku_names
from gatekeeper.demo.story import process_on
from gatekeeper.embedded import Postgres, Valkey, start_postgres, start_valkey

QUIET_WITHIN = 30.0
"""Seconds that requests may still be under way after the client has left."""


@dataclass(frozen=True, slots=True)
class Engines:
    """A Valkey with AOF `always` and a Postgres with its own defaults, both empty."""

    valkey: Valkey
    postgres: Postgres
    folder: Path


@contextmanager
def fresh_engines() -> Iterator[Engines]:
    """Start both in a folder that is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="gatekeeper-bench-"))
    folder.chmod(0o755)  # Postgres may run as another user
    try:
        with start_valkey(folder / "valkey") as valkey, start_postgres(folder / "postgres") as database:
            yield Engines(valkey, database, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Books:
    """What a contestant's own books say of one cell, once nothing is under way."""

    sold: int
    """Units promised."""
    sold_out: int = 0
    """Refusals for want of stock."""
    busy: int = 0
    """Refusals for any other reason."""
    aborts: int = 0
    """Attempts thrown away."""
    selling_seconds: float = 0.0
    """First to last promise."""
    persisted: int | None = None
    """Orders on disk in Postgres; None: it has no ledger."""
    persisted_seconds: float | None = 0.0
    """Until the last of them was there; None: that depends on when they were let in."""


class Desk(Protocol):
    """A running contestant."""

    def prepare(self, skus: int, units: int, keyed: bool = True) -> Target:
        """Stock it with so many SKUs, together `units` units, and nothing sold."""

    def under_load(self) -> AbstractContextManager[None]:
        """Around the time in which the client sends."""
        return nullcontext()

    def books(self) -> Books:
        """Wait until everything is done and return what it came to."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way of selling. `correct`: it must never oversell. `decides`: it looks at stock at all."""

    name: str
    title: str
    cells: tuple[Cell, ...] = (*LOADS, *STOCKS)
    correct: bool = True
    decides: bool = True

    def open(self, engines: Engines) -> AbstractContextManager[Desk]:
        """Start it on empty engines."""
        raise NotImplementedError


def roots(engines: Engines) -> dict[str, int]:
    """Kind → pid of the processes of the one contestant that is open: valkey, postgres, door and, if any, worker."""
    kinds = {"valkey": engines.valkey.process.pid, "postgres": engines.postgres.process.pid}
    for pid, words in processes.children().items():
        if pid not in kinds.values():
            kinds["worker" if "worker" in words else "door"] = pid
    return kinds


def shares(skus: int, units: int) -> dict[str, int]:
    """Divide units among SKUs."""
    return {name: units // skus + (number < units % skus) for number, name in enumerate(sku_names(skus))}


class EchoDesk(Desk):
    """The echo has no books."""

    def __init__(self, port: int) -> None:
        self._port = port

    def prepare(self, skus: int, units: int, keyed: bool = True) -> Target:
        return Target(self._port, "/", skus, keyed=keyed)

    def books(self) -> Books:
        return Books(0)


class Echo(Contestant):
    """bench/baselines/echo.py"""

    @contextmanager
    def open(self, engines: Engines) -> Iterator[Desk]:
        with process_on("bench.baselines.echo") as port:
            yield EchoDesk(port)


class BaselineDesk(Desk):
    """A process of bench/baselines."""

    def __init__(self, port: int, engines: Engines, in_redis: bool) -> None:
        self._port, self._engines, self._in_redis = port, engines, in_redis

    def prepare(self, skus: int, units: int, keyed: bool = True) -> Target:
        if self._in_redis:
            evalsha.stock(self._engines.valkey.url, shares(skus, units))
        else:
            postgres.stock(self._engines.postgres.url, shares(skus, units))
        self._figures("DELETE")
        return Target(self._port, "/buy", skus, keyed=keyed)

    def books(self) -> Books:
        deadline = time.monotonic() + QUIET_WITHIN
        while (counts := self._figures("GET"))["waiting"] and time.monotonic() < deadline:
            time.sleep(0.02)
        persisted = None if self._in_redis else postgres.orders(self._engines.postgres.url)
        seconds = counts["last_sale"] - counts["first_sale"]
        refused = counts["sold_out"], counts["busy"], counts["aborts"]
        return Books(counts["sold"], *refused, seconds, persisted, seconds)

    def _figures(self, method: str) -> dict[str, Any]:
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/figures", method=method)
        with urllib.request.urlopen(request, timeout=QUIET_WITHIN) as answer:
            figures: dict[str, Any] = json.load(answer)
        return figures


class Baseline(Contestant):
    """A module of bench/baselines named like the contestant."""

    @contextmanager
    def open(self, engines: Engines) -> Iterator[Desk]:
        with process_on(f"bench.baselines.{self.name}", engines.valkey.url, engines.postgres.url) as port:
            yield BaselineDesk(port, engines, self.name == "evalsha")
