"""The demo's story: the crowd at the naive shop, the same crowd at the gate, then both sets of books."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import redis

from gatekeeper.demo.crowd import Address, Tally, rush
from gatekeeper.demo.customers import HOLD_SECONDS, Customers, open_shop
from gatekeeper.demo.naive import STOCK
from gatekeeper.demo.payments import PaymentService
from gatekeeper.embedded import free_port
from gatekeeper.errors import GatekeeperError
from gatekeeper.ledger import Connection
from gatekeeper.merchant import sales, stock
from gatekeeper.merchant.sales import Terms
from gatekeeper.merchant.stock import Wanted
from gatekeeper.model import Counters
from gatekeeper.process import Child, stop_all
from gatekeeper.settings import Settings
from gatekeeper.stack import Stack
from workers.connections import Connections
from workers.reconcile import reconcile

SALE, SKU = "demo", "JACKET"
PERSIST_WITHIN = 20.0
"""Seconds for the ledger to hold what was acknowledged."""

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Naive:
    """What the naive shop did."""

    sold: int
    oversold: int
    sold_again: int
    """Retries that were sold one more unit."""


@dataclass(frozen=True, slots=True)
class AtTheGate:
    """What the gate did, every figure measured in this run."""

    buyers: int
    stock: int
    sold: int
    oversold: int
    duplicates: int
    """Retries that were answered with the first answer, and had no second effect."""
    offered_per_s: float
    admitted_per_s: float
    persisted_per_s: float
    p50_ms: float
    p99_ms: float
    ledger_rows: int
    """Reservations."""
    drift: int


@dataclass(frozen=True, slots=True)
class Payments:
    """What became of holds and money, by the ledger; `unresolved` also by the payment service's own books."""

    sold: int
    """Payments that made a sale."""
    released: int
    """Holds that were given back: the charge was declined."""
    expired: int
    """Holds that nobody paid in time, and that stayed so."""
    refund_due: int
    """Payments that came too late for what was left; the shop has given them back and said so."""
    unresolved: int
    """Holds still open, and charges of which the ledger does not say what became of them."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The whole demo."""

    naive: Naive
    gate: AtTheGate
    payments: Payments
    counters: Counters
    """Redis's own, at the end."""
    acknowledged: int
    """Reservations that buyers were told of."""

    @property
    def proven(self) -> bool:
        """No unit was sold twice or lost, no payment forgotten: buyers, payment service, Redis and ledger agree."""
        c, gate, paid = self.counters, self.gate, self.payments
        units = c.available + c.held + c.sold == c.granted == gate.stock and c.sold == gate.sold == paid.sold
        books = gate.ledger_rows == self.acknowledged and not gate.drift and not gate.oversold
        return units and books and not paid.unresolved and not c.held

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        naive = {"sold": self.naive.sold, "oversold": self.naive.oversold}
        return {"naive": naive, "gate": asdict(self.gate), "payments": asdict(self.payments)}


async def at_the_naive_shop(stack: Stack, buyers: int, units: int, progress: Progress) -> Naive:
    """Let the crowd buy by check-then-decrement; returns what it sold."""
    url = stack.redis_url.rpartition("/")[0] + "/1"  # a database of its own
    with redis.Redis.from_url(url) as client, process_on("gatekeeper.demo.naive", url) as port:
        client.set(STOCK, units)
        tally = await rush(Address(f"http://127.0.0.1:{port}/buy"), buyers, progress)
    return Naive(tally.created, max(0, tally.created - units), tally.sold_again)


@contextmanager
def process_on(module: str, *words: str) -> Iterator[int]:
    """Run `python -m module PORT words…` on a free port, which is lent while it runs."""
    port = free_port()
    child = Child([module, str(port), *words])
    child.start()
    try:
        _wait_for(port, child)
        yield port
    finally:
        stop_all([child])


def _wait_for(port: int, child: Child) -> None:
    deadline = time.monotonic() + 20
    while not child.died and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.05)
    raise GatekeeperError(f"{' '.join(child.words)} did not start")


async def at_the_gate(
    stack: Stack, buyers: int, units: int, progress: Progress, paying: Progress
) -> tuple[AtTheGate, Payments, Counters, int]:
    """Let the same crowd buy at the gate, and pay; returns what became of it all, and the reservations acknowledged.

    `progress` hears how many requests were answered, `paying` how many units are sold.
    """
    settings = Settings(redis_url=stack.redis_url, database_url=stack.database_url)
    connections, service = Connections(settings), PaymentService()
    key = stack.description()["shop_key"]
    try:
        with connections.ledger() as ledger:
            await _prepare(connections, ledger, units)
            async with open_shop(stack.url, key, SALE, service) as shop:
                customers = Customers(shop, SKU)
                address = Address(f"{stack.url}/v1/sales/{SALE}/reservations", key)
                tally = await rush(address, buyers, progress, customers.follow)
                rows, seconds = await _persisted(ledger, len(tally.reservations))
                await customers.sell_what_comes_back(connections.gate, SALE, max(0, units - buyers), paying)
            report = await reconcile(connections.gate, ledger, SALE, keep=settings.keep_events)
            total, payments = _ending(ledger, service)
        counters = (await connections.gate.counters(SALE))[SKU]
    finally:
        await connections.close()
    figures = _figures(tally, buyers, units, rows, seconds, len(report.drift))
    gate = replace(figures, sold=counters.sold, oversold=max(0, counters.sold - units), ledger_rows=total)
    return gate, payments, counters, len(tally.reservations | customers.reservations)


def _ending(ledger: Connection, service: PaymentService) -> tuple[int, Payments]:
    """Return the ledger's reservations, and what became of them and of every charge."""
    counts = ", ".join(f"count(*) FILTER (WHERE state = '{state}')" for state in ("held", "released", "expired"))
    query = f"SELECT count(*), {counts} FROM reservations WHERE sale = %s"
    total, held, released, expired = ledger.execute(query, [SALE]).fetchone() or (0, 0, 0, 0)
    found = ledger.execute("SELECT payment, state FROM payments WHERE sale = %s", [SALE]).fetchall()
    sold = {payment for payment, state in found if state == "sold"}
    back = {payment for payment, state in found if state == "refunded"}
    lost = (service.charged - sold - back) | (service.refunded.keys() ^ back)
    return total, Payments(len(sold), released, expired, len(back), held + len(found) - len(sold | back) + len(lost))


async def _prepare(connections: Connections, ledger: Connection, units: int) -> None:
    """What a merchant does with `sale create`, `stock load` and `sale open`."""
    gate, limit = connections.gate, connections.settings.backlog_limit
    await sales.create(
        gate, ledger, SALE, Terms(per_buyer=1, hold_seconds=HOLD_SECONDS), backlog_limit=limit, actor="demo"
    )
    await stock.state(gate, ledger, SALE, lambda _: [Wanted(SKU, units)], actor="demo")
    await gate.control(SALE, "open", actor="demo")


async def _persisted(ledger: Connection, wanted: int) -> tuple[int, float]:
    """Wait for the worker; returns the ledger's rows and the seconds from the first reservation to the last row."""
    query = """
        SELECT count(*), extract(epoch FROM (SELECT moved_at FROM cursors WHERE sale = %(sale)s) - min(created_at))
          FROM reservations WHERE sale = %(sale)s
    """
    deadline = time.monotonic() + PERSIST_WITHIN
    while True:
        rows, seconds = ledger.execute(query, {"sale": SALE}).fetchone() or (0, None)
        if rows >= wanted or time.monotonic() > deadline:
            return rows, float(seconds or 0)
        await asyncio.sleep(0.02)


def _figures(tally: Tally, buyers: int, units: int, rows: int, seconds: float, drift: int) -> AtTheGate:
    sold = len(tally.reservations)
    return AtTheGate(
        buyers=buyers,
        stock=units,
        sold=sold,
        oversold=max(0, sold - units),
        duplicates=tally.replays,
        offered_per_s=round(tally.rate(tally.requests, tally.ended), 1),
        admitted_per_s=round(tally.rate(tally.created, tally.last_sale), 1),
        persisted_per_s=round(rows / max(seconds, 1e-3), 1),
        p50_ms=round(tally.percentile(0.50), 1),
        p99_ms=round(tally.percentile(0.99), 1),
        ledger_rows=rows,
        drift=drift,
    )
