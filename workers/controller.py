"""The controller: alone loads scripts, and alone opens epochs, after it has proven what Redis holds.

A Redis that restarted has lost its scripts and has a new replication id: every sale is fenced until it is proven
again. The proof of a sale: its outbox is drained to the end, the end is where the ledger's cursor is, and all counters
are equal. Then the next epoch begins. What cannot be proven stays fenced, with the reason for a person to read.
"""

import logging
import time
from collections.abc import Sequence

from redis.exceptions import ResponseError

from gatekeeper import metrics
from gatekeeper.errors import GateUnavailable, SaleArchived, SaleFenced, UnknownSale
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection, allow_pauses, cursors, quarantine, rebuild, sales
from gatekeeper.model import Position
from gatekeeper.outcomes import Outcome
from gatekeeper.replies import Mark, Replication
from gatekeeper.selfcheck import check_redis
from lua import VERSION
from workers.connections import Connections
from workers.drain import Stop, drain
from workers.loop import Round, run

log = logging.getLogger(__name__)

TICK = 0.25
"""Seconds between rounds: with the proof, what a restart of Redis costs after it is back."""
ROTATION = 1.0
SALES_PER_STEP = 200
RETRY = 2.0
"""Seconds before a sale that could not be proven is tried again."""
PROOF_BUDGET = 30.0
"""Seconds to drain what is left of one sale before it is another's turn."""
LOCKED_SECONDS = 120
"""How long comparing a huge sale may hold its cursor."""
ACTOR = "controller"
REPAIR = "under repair"
"""A fence that begins so is a repair's: only it, repeated if it died, lifts it."""
DAMAGE = (SaleFenced, SaleArchived, UnknownSale, ValueError, ResponseError)
"""What is wrong with one sale, and not with Redis or Postgres."""


class Controller:
    """One round: scripts, then the sales that are not proven on this Redis."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._gate = connections.gate
        self._seen: Replication | None = None
        self._unproven: dict[str, float] = {}  # sale → when to try (again)
        self._reasons: dict[str, str] = {}  # sale → why it could not be proven last time
        self._lost: set[str] = set()  # sales that Redis should hold and does not
        self._next_step = 0.0
        self._after = ""

    async def round(self) -> None:
        """Raises GateError or psycopg.OperationalError when Redis or Postgres is gone."""
        if not await self._gate.scripts_loaded():
            await self._load()
        replication = await self._gate.replication()
        if replication != self._seen or not await self._gate.catalogue_published():
            await self._look_at_all()
            self._seen = replication
        await self._find(await self._gate.newly_fenced(100))
        if time.monotonic() >= self._next_step:
            await self._rotate()
            self._next_step = time.monotonic() + ROTATION
        for sale in [sale for sale, due in self._unproven.items() if due <= time.monotonic()]:
            await self._prove(sale, replication)
        metrics.FENCED_SALES.set(len(self._unproven) + len(self._lost))

    async def _load(self) -> None:
        problems = await check_redis(self._gate.redis, self._connections.settings.durability)
        if problems:
            raise GateUnavailable("Redis is not set up to keep promises: " + "; ".join(problems))
        await self._gate.load_scripts()

    async def _look_at_all(self) -> None:
        """After a start of this controller or of Redis, or after a FLUSHALL: publish the catalogue, look at all."""
        with self._connections.ledger() as ledger:
            names, archived = sales.live(ledger), sales.archived(ledger)
        await self._gate.publish_catalogue([*names, *archived])
        for sale in archived:  # one that is there already is left as it is
            await self._gate.control(sale, "bury", actor=ACTOR)
        for start in range(0, len(names), SALES_PER_STEP):
            await self._find(names[start : start + SALES_PER_STEP])

    async def _rotate(self) -> None:
        with self._connections.ledger() as ledger:
            page = list(cursors.page(ledger, self._after, SALES_PER_STEP))
        self._after = page[-1] if len(page) == SALES_PER_STEP else ""
        await self._find(page)

    async def _find(self, names: Sequence[str]) -> None:
        """Note which of these sales are not proven on this Redis under these rules, and which Redis lost."""
        if not names:
            return
        replication = await self._gate.replication()
        for sale, mark in (await self._gate.marks(names)).items():
            if mark is None:
                self._lost.add(sale)
                continue
            self._lost.discard(sale)
            if mark != Mark(VERSION, replication.id, ""):
                self._unproven.setdefault(sale, 0.0)

    async def _prove(self, sale: str, replication: Replication) -> None:
        """One sale's damage must not keep the others waiting."""
        keep = self._connections.settings.keep_events
        try:
            with self._connections.ledger() as ledger:
                reason = await prove(self._gate, ledger, sale, replication, keep=keep)
        except DAMAGE as error:
            reason = str(error).splitlines()[0]
        if not reason:
            del self._unproven[sale]
            self._reasons.pop(sale, None)
            return
        if self._reasons.get(sale) != reason:
            log.warning("%s stays fenced: %s", sale, reason)
        self._reasons[sale] = reason
        self._unproven[sale] = time.monotonic() + RETRY


async def prove(gate: Gate, connection: Connection, sale: str, replication: Replication, *, keep: int) -> str:
    """Prove a fenced sale and open its next epoch; returns "" or why it stays fenced."""
    mark = (await gate.marks([sale]))[sale]
    if mark is None:
        return "Redis lacks its state: `gatekeeper reconcile --repair` writes it anew"
    if mark == Mark(VERSION, replication.id, ""):
        return ""  # somebody else was faster
    if mark.fence.startswith(REPAIR):
        return mark.fence
    if mark.replid == replication.former:
        reason = "this Redis took over from another one, whose last answers it may lack: a person must compare"
        await gate.control(sale, "fence", actor=ACTOR, reason=reason)
        return reason
    drained = await drain(gate, connection, sale, keep=keep, budget=PROOF_BUDGET)
    if drained.stop is not Stop.EMPTY:
        return str(drained.stop.value)
    with connection.transaction():
        allow_pauses(connection, LOCKED_SECONDS)
        cursor = cursors.lock(connection, sale)
        now = (await gate.marks([sale]))[sale]
        if now != mark:
            return "it was fenced anew meanwhile" if now and now.fence else "it was proven or lost meanwhile"
        reason = await _difference(gate, connection, sale, cursor)
        if reason:
            await gate.control(sale, "fence", actor=ACTOR, reason=reason)
            return reason
        proven = await gate.control(sale, "prove", actor=ACTOR, last_id=str(cursor), fence=mark.fence)
    if proven.outcome is not Outcome.OK:
        return f"{proven.outcome}: {proven.detail}"
    metrics.EPOCHS.inc()
    await gate.ring([sale])
    return ""


async def _difference(gate: Gate, connection: Connection, sale: str, cursor: Position | None) -> str:
    """Return in what Redis and the ledger differ, "" when in nothing. The cursor is locked and nothing is admitted."""
    last = await gate.last_position(sale)
    if last != cursor:
        return f"the outbox ends at {last}, the ledger is at {cursor}"
    missing = await gate.known(sale, quarantine.missing(connection, sale))
    if await gate.reservation_count(sale) != sales.reservation_count(connection, sale) + missing:
        return "Redis and the ledger know different numbers of reservations"
    unproven = quarantine.skus(connection, sale)
    redis = {sku: c for sku, c in (await gate.counters(sale)).items() if sku not in unproven}
    ledger = {sku: c for sku, c in rebuild.counters(connection, sale).items() if sku not in unproven}
    differing = sorted(sku for sku in redis.keys() | ledger.keys() if redis.get(sku) != ledger.get(sku))
    if differing:
        return f"Redis and the ledger count differently: {', '.join(differing[:5])}"
    return "" if quarantine.events(connection, sale) else await _sums_differ(gate, connection, sale)


async def _sums_differ(gate: Gate, connection: Connection, sale: str) -> str:
    """The same for what quarantine would excuse: holds, and the units that count against buyers' limits."""
    if await gate.hold_count(sale) != sales.hold_count(connection, sale):
        return "Redis and the ledger know different numbers of holds"
    row = sales.get(connection, sale)
    if row and row.per_buyer and await gate.buyer_units(sale) != cursors.units(connection, sale):
        return "Redis and the ledger count the buyers' units differently"
    return ""


def _round(connections: Connections) -> Round:
    return Controller(connections).round


if __name__ == "__main__":
    run(_round, every=TICK)
