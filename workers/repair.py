"""Mend Redis from the ledger, under a fence: everything that Redis should hold is written anew, then a new epoch opens.

For drift, lost keys, and a Redis that took over with older data. The ledger must be whole for it: nothing in
quarantine, and every event that Redis still has applied.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from redis.exceptions import ResponseError

from gatekeeper.errors import GateError, GatekeeperError
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection, allow_pauses, checkpoints, cursors, quarantine, rebuild, sales, stock
from gatekeeper.mending import Mending
from gatekeeper.model import Position
from gatekeeper.outcomes import Outcome
from workers.controller import LOCKED_SECONDS, REPAIR
from workers.drain import Stop, drain

log = logging.getLogger(__name__)

T = TypeVar("T")

DRAIN_BUDGET = 60.0
"""Seconds to drain what is left before the repair gives up."""
CHUNK = 2_000
"""Records in one write."""


class NotRepairable(GatekeeperError):
    """The ledger is not whole, so Redis cannot be mended from it."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """What a repair came to."""

    skus: list[str]
    """SKUs whose counters were others before."""
    reservations_before: int
    reservations: int
    epoch: int
    """The one that was opened."""


async def repair(
    gate: Gate,
    connection: Connection,
    sale: str,
    *,
    keep: int,
    backlog_limit: int,
    actor: str,
    set_aside: bool = False,
    progress: Callable[[int], None] = lambda reservations: None,
) -> Repaired:
    """Fence, drain, write anew, prove. Raises NotRepairable, and leaves the sale fenced; repeatable after any crash.

    `set_aside`: move the outbox out of the way first, kept under another key. What it has beyond the ledger is given
    up: the only way on after a gap.
    """
    _refuse_quarantined(connection, sale)
    fence = f"{REPAIR} by {actor}"
    await _fence(gate, sale, actor, fence)
    try:
        if set_aside:
            log.warning("%s: the outbox is kept as %s", sale, await Mending(gate.redis).set_aside(sale))
        await _drain(gate, connection, sale, keep)
        with connection.transaction():
            allow_pauses(connection, LOCKED_SECONDS)
            cursor = cursors.lock(connection, sale)
            await _check(gate, connection, sale, cursor, fence)
            assert cursor
            before = await _count(gate, sale)
            differing = await _differing(gate, connection, sale)
            stock.drop_overtaken(connection, sale)
            written = await _write(gate, connection, sale, cursor, backlog_limit, fence, progress)
            proven = await gate.control(sale, "prove", actor=actor, last_id=str(cursor), fence=fence)
            if proven.outcome is not Outcome.OK:
                raise NotRepairable(f"{sale} was mended, but not proven: {proven.outcome} {proven.detail}")
            checkpoints.mark_all_stopped(connection, sale)  # what they showed is mended
            done = Repaired(differing, before, written, gate.epoch(sale))
            counts = {"reservations_before": before, "reservations": written, "epoch": done.epoch}
            sales.audit(connection, sale, actor, "repair", {"skus": differing[:1000], **counts})
    except NotRepairable as refused:
        with suppress(GateError):  # the controller may try what the repair could not
            await gate.control(sale, "fence", actor=actor, reason=f"a repair was refused: {refused}")
        raise
    await gate.ring([sale])
    return done


def _refuse_quarantined(connection: Connection, sale: str) -> None:
    if rows := quarantine.events(connection, sale):
        raise NotRepairable(
            f"{len(rows)} events of {sale} are in quarantine: `gatekeeper quarantine retry` or `discard` them first"
        )


async def _fence(gate: Gate, sale: str, actor: str, reason: str) -> None:
    """A sale that Redis lost cannot be fenced, and needs not be: it answers nothing."""
    try:
        await gate.control(sale, "fence", actor=actor, reason=reason)
    except GateError as error:
        if await gate.has_state(sale):
            raise NotRepairable(f"{sale} cannot be fenced: {error}") from error


async def _drain(gate: Gate, connection: Connection, sale: str, keep: int) -> None:
    try:
        drained = await drain(gate, connection, sale, keep=keep, budget=DRAIN_BUDGET)
    except ResponseError as error:
        raise NotRepairable(f"the outbox of {sale} cannot be read ({error}): --set-aside moves it away") from error
    if drained.stop in (Stop.BUDGET, Stop.BUSY):
        raise NotRepairable(f"{sale} is not drained yet: {drained.stop.value}. Try again")


async def _check(gate: Gate, connection: Connection, sale: str, cursor: Position | None, fence: str) -> None:
    """Raise NotRepairable unless the ledger is whole, and nobody has lifted the fence."""
    if cursor is None:
        raise NotRepairable(f"the ledger has no books of {sale} that are still open")
    if cursor.n < 0 and cursor.epoch == 1:
        raise NotRepairable(
            f"no event of {sale} has reached the ledger: `gatekeeper sale create {sale}` again completes it"
        )
    _refuse_quarantined(connection, sale)
    mark = (await gate.marks([sale]))[sale] if await gate.has_state(sale) else None
    if mark and mark.fence != fence:
        if not mark.fence.startswith("the outbox"):  # what the drain says of an outbox that does not fit
            raise NotRepairable(f"somebody changed the fence of {sale} meanwhile (to {mark.fence!r}). Try again")
        await gate.control(sale, "fence", actor="repair", reason=fence)
    last = await Mending(gate.redis).newest_ever(sale)
    if last is not None and last > cursor:
        raise NotRepairable(
            f"the outbox of {sale} goes on until {last}, the ledger is at {cursor}: events between them are lost, and "
            "what followed them cannot be applied. What --set-aside gives up: docs/operations.md, `A gap in the outbox`"
        )


async def _count(gate: Gate, sale: str) -> int:
    try:
        return await gate.reservation_count(sale)
    except ResponseError:  # of the wrong type
        return 0


async def _differing(gate: Gate, connection: Connection, sale: str) -> list[str]:
    try:
        redis = await gate.counters(sale)
    except (ValueError, ResponseError):  # malformed: then all are written anew, whatever they were
        redis = {}
    ledger = rebuild.counters(connection, sale)
    return sorted(sku for sku in redis.keys() | ledger.keys() if redis.get(sku) != ledger.get(sku))


async def _write(
    gate: Gate,
    connection: Connection,
    sale: str,
    cursor: Position,
    backlog_limit: int,
    fence: str,
    progress: Callable[[int], None],
) -> int:
    row = sales.get(connection, sale)
    assert row
    mending = Mending(gate.redis)
    await mending.wipe(sale)
    for counters in _chunks(list(rebuild.counters(connection, sale).items())):
        await mending.write_stock(sale, dict(counters))
    written = 0
    for records in rebuild.reservations(connection, sale, CHUNK):
        await mending.write_reservations(sale, records)
        written += len(records)
        progress(written)
    for buyers in _chunks(rebuild.buyers(connection, sale) if row.per_buyer else []):
        await mending.write_buyers(sale, dict(buyers))
    fields: dict[str, str | int] = rebuild.fields(connection, sale)
    if not row.per_buyer:
        fields["buyer_units"] = 0
    await mending.write_sale(sale, cursor, {**fields, "backlog_limit": backlog_limit, "fence": fence})
    return written


def _chunks(values: Sequence[T]) -> list[Sequence[T]]:
    return [values[i : i + CHUNK] for i in range(0, len(values), CHUNK)]
