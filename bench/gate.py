"""Gatekeeper as a contestant: the whole stack, with its worker draining into the ledger while it sells."""

import asyncio
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import count

from bench import processes
from bench.contestants import QUIET_WITHIN, Books, Contestant, Desk, Engines, shares
from bench.target import Target
from gatekeeper.embedded import free_port
from gatekeeper.ledger import connect as connect_ledger
from gatekeeper.ledger import cursors
from gatekeeper.merchant import sales, stock
from gatekeeper.merchant.sales import Terms
from gatekeeper.merchant.stock import Wanted
from gatekeeper.settings import Settings
from gatekeeper.stack import Stack
from workers.connections import Connections

HOLD_SECONDS = 3600
"""Longer than any run: expiry is not measured here."""
_POLL = 0.01
_OUTCOME = re.compile(r'^gatekeeper_purchases_total\{outcome="(\w+)"\} (\S+)', re.MULTILINE)
_LOST = re.compile(r"^gatekeeper_script_errors_total\{[^}]*\} (\S+)", re.MULTILINE)


@cache
def has_fast_lane() -> bool:
    """Whether this version's `serve` can be told to do without one."""
    said = subprocess.run([sys.executable, "-m", "gatekeeper", "serve", "--help"], capture_output=True, text=True)
    return "--no-fast-lane" in said.stdout


async def open_sale(connections: Connections, name: str, skus: int, units: int) -> None:
    """What a merchant does with `sale create`, `stock load` and `sale open`."""
    gate, limit = connections.gate, connections.settings.backlog_limit
    with connections.ledger() as ledger:
        await sales.create(gate, ledger, name, Terms(hold_seconds=HOLD_SECONDS), backlog_limit=limit, actor="bench")
        wanted = [Wanted(sku, of_it) for sku, of_it in shares(skus, units).items()]
        await stock.state(gate, ledger, name, lambda _: wanted, actor="bench")
    await gate.control(name, "open", actor="bench")


class GateDesk(Desk):
    """A running stack. Each preparation is a new sale. `worker_elsewhere`: the worker works when the client is done."""

    def __init__(self, stack: Stack, worker_elsewhere: bool = False) -> None:
        self.settings = Settings(redis_url=stack.redis_url, database_url=stack.database_url)
        self._stack, self._worker_elsewhere = stack, worker_elsewhere
        self._numbers = count(1)
        self.sale = ""
        self._started = 0.0
        self._before: dict[str, float] = {}

    def prepare(self, skus: int, units: int, keyed: bool = True) -> Target:
        self.sale = f"bench-{next(self._numbers)}"
        asyncio.run(self._open(skus, units))
        return self.target(skus, keyed)

    def target(self, skus: int = 1, keyed: bool = True) -> Target:
        """Return where to buy from the sale, with counts that begin now."""
        self._before, self._started = self._counts(), time.monotonic()
        key = self._stack.description()["shop_key"]
        # Keys are unique in time too: the same sale may be bought from again.
        run = f"{self.sale}-{time.monotonic_ns():x}"
        return Target(self._stack.port, f"/v1/sales/{self.sale}/reservations", skus, key, keyed, run)

    def under_load(self) -> AbstractContextManager[None]:
        return self.without_worker() if self._worker_elsewhere else nullcontext()

    def without_worker(self) -> AbstractContextManager[None]:
        """Hold the worker still, as if it ran elsewhere; all that it missed it does afterwards."""
        (worker,) = (pid for pid, words in processes.children().items() if "worker" in words)
        return processes.held_still(worker)

    def books(self) -> Books:
        deadline = time.monotonic() + QUIET_WITHIN
        sold, persisted = -1, -2
        while sold != persisted and time.monotonic() < deadline:
            before, sold = sold, asyncio.run(self._promised())
            with connect_ledger(self.settings.database_url) as ledger:
                while (persisted := cursors.units(ledger, self.sale)) < sold and time.monotonic() < deadline:
                    time.sleep(_POLL)
            if before != sold:  # somebody was still being served: look again
                persisted_at, persisted = time.monotonic(), -2
        now = self._counts()
        counts = {name: now[name] - self._before.get(name, 0.0) for name in now}
        other = sum(n for name, n in counts.items() if name not in ("admitted", "replayed", "sold_out", "lost"))
        return Books(
            sold=sold,
            sold_out=round(counts.get("sold_out", 0)),
            busy=round(other),
            aborts=round(counts["lost"]),
            selling_seconds=self._selling_seconds(),
            persisted=persisted if persisted >= 0 else None,
            persisted_seconds=None if self._worker_elsewhere else persisted_at - self._started,
        )

    async def _open(self, skus: int, units: int) -> None:
        connections = Connections(self.settings)
        try:
            await open_sale(connections, self.sale, skus, units)
        finally:
            await connections.close()

    async def _promised(self) -> int:
        """Units that Redis has promised."""
        connections = Connections(self.settings)
        try:
            found = await connections.gate.counters(self.sale)
            return sum(c.held + c.sold for c in found.values())
        finally:
            await connections.close()

    def _counts(self) -> dict[str, float]:
        """What the front door counted since it started; `lost`: script calls without a decision."""
        with urllib.request.urlopen(f"{self._stack.url}/metrics", timeout=QUIET_WITHIN) as answer:
            text = answer.read().decode()
        found = {name: float(value) for name, value in _OUTCOME.findall(text)}
        return found | {"lost": sum(float(value) for value in _LOST.findall(text))}

    def _selling_seconds(self) -> float:
        query = "SELECT extract(epoch FROM max(created_at) - min(created_at)) FROM reservations WHERE sale = %s"
        with connect_ledger(self.settings.database_url) as ledger:
            row = ledger.execute(query, [self.sale]).fetchone()
        return float(row[0] or 0) if row else 0.0


@dataclass(frozen=True, slots=True)
class Gatekeeper(Contestant):
    """A front door of one process and one worker."""

    options: tuple[str, ...] = ()
    """For `gatekeeper serve`."""
    worker_elsewhere: bool = False
    """The worker's processes are stopped while the client sends."""

    @contextmanager
    def open(self, engines: Engines) -> Iterator[Desk]:
        settings = Settings(redis_url=engines.valkey.url, database_url=engines.postgres.url)
        with running_stack(engines, settings, self.options) as stack:
            yield GateDesk(stack, self.worker_elsewhere)


@contextmanager
def running_stack(engines: Engines, settings: Settings, options: tuple[str, ...] = ()) -> Iterator[Stack]:
    """Start a stack on these engines."""
    stack = Stack(engines.folder / "stack", free_port(), settings=settings, serve_options=options)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()
