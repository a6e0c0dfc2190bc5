"""Drain a sale's outbox into the ledger, exactly once and in order, through any crash.

One transaction locks the cursor, applies what follows it and moves it. Dead before the commit, nothing happened; dead
after it, the cursor says so. Redis hears of it afterwards, and only to trim.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from gatekeeper import metrics
from gatekeeper.errors import GateError, SaleFenced, UnknownSale
from gatekeeper.events import Epoch, MalformedEvent, parse
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection, checkpoints, cursors, quarantine
from gatekeeper.ledger.apply import Applied, Raw, apply
from gatekeeper.model import Position

log = logging.getLogger(__name__)

BATCH = 2_000
"""Events in one transaction: ≈ 40 ms of the cursor's lock."""
BUDGET = 2.0
"""Seconds that a hot sale may keep one job, so that other sales get their turn."""
ACTOR = "drain"


class Stop(Enum):
    """Why a drain ended."""

    EMPTY = "nothing is left"
    BUDGET = "its time is over, more is waiting"
    BUSY = "another drain has the cursor"
    FENCED = "the outbox and the ledger do not fit"


@dataclass(frozen=True, slots=True)
class Drained:
    """What one drain came to; `position` is the cursor where it ended (None: never had it)."""

    stop: Stop
    events: int
    position: Position | None


async def drain(gate: Gate, connection: Connection, sale: str, *, keep: int, budget: float = BUDGET) -> Drained:
    """Apply batch after batch until nothing is left or the budget (seconds) is over.

    Raises GateError or psycopg.Error when Redis or Postgres is gone; what was committed stays done.
    """
    deadline, events = time.monotonic() + budget, 0
    while True:
        step = await _step(gate, connection, sale)
        events += step.events
        if step.position and step.position.n >= 0 and step.stop is not Stop.FENCED:
            # Also when there was nothing: an earlier drain may have died before it could say so.
            with suppress(SaleFenced):
                await gate.applied(sale, step.position, keep=keep, checkpoint=step.checkpoint)
        if step.stop is not None:
            break
        if time.monotonic() > deadline:
            step.stop = Stop.BUDGET
            break
    await _pause_quarantined(gate, connection, sale)
    await _stop_surplus(gate, connection, sale)
    return Drained(step.stop, events, step.position)


@dataclass(slots=True)
class _Step:
    """One transaction's result; `stop` is None when there may be more."""

    stop: Stop | None = None
    position: Position | None = None
    events: int = 0
    checkpoint: str = ""
    """What its newest checkpoint came to: "result position at_ms skus"."""


async def _step(gate: Gate, connection: Connection, sale: str) -> _Step:
    started = time.perf_counter()
    with connection.transaction():
        cursor = cursors.try_lock(connection, sale)
        if cursor is None:
            return _Step(Stop.BUSY)
        batch = await gate.events(sale, cursor, BATCH)
        whole = list(unbroken(cursor, batch))
        if whole:
            applied = apply(connection, sale, whole)
            cursors.move(connection, sale, whole[-1][0])
    if whole:
        _count(whole, applied, time.perf_counter() - started)
        stop = None if len(batch) == BATCH or len(whole) < len(batch) else Stop.EMPTY
        return _Step(stop, whole[-1][0], len(whole), str(applied.comparisons[-1]) if applied.comparisons else "")
    reason = _loss(cursor, batch, await gate.last_position(sale))
    if reason:
        with suppress(SaleFenced, UnknownSale):  # of a sale that Redis lost there is nothing to fence
            await gate.control(sale, "fence", actor=ACTOR, reason=reason)
        return _Step(Stop.FENCED, cursor)
    return _Step(Stop.EMPTY, cursor)


def unbroken(cursor: Position, batch: Iterable[Raw]) -> Iterator[Raw]:
    """Yield events as long as each follows the one before: n dense, or a new epoch that names its predecessor."""
    for position, payload in batch:
        if position != cursor.next and not _opens_epoch(cursor, position, payload):
            return
        yield position, payload
        cursor = position


def _opens_epoch(cursor: Position, position: Position, payload: bytes) -> bool:
    if position.epoch <= cursor.epoch or position.n:
        return False
    try:
        event = parse(payload)
    except MalformedEvent:
        return False
    return isinstance(event, Epoch) and event.predecessor == cursor


def _loss(cursor: Position, batch: list[Raw], last: Position | None) -> str:
    """Say what is missing between ledger and outbox, or "" when nothing is."""
    if batch:
        return f"the outbox goes on at {batch[0][0]}, the ledger is at {cursor}: events between them are lost"
    if last is not None and last < cursor:
        return f"the outbox ends at {last}, the ledger is at {cursor} already: this Redis holds older data"
    return ""


def _count(batch: list[Raw], applied: Applied, seconds: float) -> None:
    metrics.EVENTS_APPLIED.inc(len(batch))
    metrics.EVENTS_QUARANTINED.inc(applied.quarantined)
    metrics.APPLY_SECONDS.observe(seconds)
    for found in applied.comparisons:
        metrics.checkpoints(found.result).inc()
    try:
        newest = parse(batch[-1][1])
        metrics.LAG_SECONDS.observe(max(0.0, time.time() - newest.at_ms / 1000))
    except MalformedEvent:
        pass


async def _stop_surplus(gate: Gate, connection: Connection, sale: str) -> None:
    """Sell nothing more of what Redis has too much of; where it is far too much, nothing of the sale."""
    for found in checkpoints.unstopped(connection, sale):
        log.error("%s: at %s Redis had more available than the ledger of %s", sale, found.position, set(found.surplus))
        try:
            for sku in found.surplus:
                await gate.control(sale, "pause_sku", actor=ACTOR, sku=sku)
            if any(found.surplus.values()):
                log.error("%s: that is over 5 %% of what was granted: the sale is paused", sale)
                metrics.ESCALATIONS.inc()
                await gate.control(sale, "pause", actor=ACTOR)
        except GateError:
            return  # fenced: it sells nothing anyway
        checkpoints.mark_stopped(connection, sale, found.position)


async def _pause_quarantined(gate: Gate, connection: Connection, sale: str) -> None:
    """Stop selling what quarantined events name (not knowing what they name: the sale); repeated until it is done."""
    for position, skus in quarantine.unpaused(connection, sale):
        try:
            for sku in skus:
                await gate.control(sale, "pause_sku", actor=ACTOR, sku=sku)
            if not skus:
                await gate.control(sale, "pause", actor=ACTOR)
        except GateError:
            return  # fenced: it sells nothing anyway
        quarantine.mark_paused(connection, sale, position)
