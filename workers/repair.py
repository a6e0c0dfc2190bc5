"""Mend Redis from the ledger, under a fence: everything that Redis should hold is written anew, then a new epoch opens.

For drift, lost keys, and a Redis that took over with older data. The ledger must be whole for it: nothing in
quarantine, and every event that Redis still has applied.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gatekeeper.errors import GateError, GatekeeperError
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection, cursors, quarantine, rebuild, sales
from gatekeeper.model import Position
from gatekeeper.outcomes import Outcome
from workers.drain import Stop, drain

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
    progress: Callable[[int], None] = lambda reservations: None,
) -> Repaired:
    """Fence, drain, write anew, prove. Raises NotRepairable, and leaves the sale fenced; repeatable after any crash."""
    await _fence(gate, sale, actor)
    drained = await drain(gate, connection, sale, keep=keep, budget=DRAIN_BUDGET)
    if drained.stop in (Stop.BUDGET, Stop.BUSY):
        raise NotRepairable(f"{sale} is not drained yet: {drained.stop.value}. Try again")
    with connection.transaction():
        cursor = cursors.lock(connection, sale)
        if cursor is None:
            raise NotRepairable(f"the ledger has no books of {sale} that are still open")
        if rows := quarantine.events(connection, sale):
            raise NotRepairable(
                f"{len(rows)} events of {sale} are in quarantine: `gatekeeper quarantine retry` or `discard` them first"
            )
        if beyond := await gate.events(sale, cursor, 1):
            raise NotRepairable(
                f"the outbox of {sale} goes on at {beyond[0][0]}, the ledger is at {cursor}: events between them are "
                "lost, and what followed them cannot be applied. See docs/operations.md, `a gap in the outbox`"
            )
        before = await gate.reservation_count(sale)
        differing = await _differing(gate, connection, sale)
        written = await _write(gate, connection, sale, cursor, backlog_limit, progress)
        proven = await gate.control(sale, "prove", actor=actor, last_id=str(cursor))
        if proven.outcome is not Outcome.OK:
            raise NotRepairable(f"{sale} was mended, but not proven: {proven.outcome} {proven.detail}")
        done = Repaired(differing, before, written, gate.epoch(sale))
        detail = {"skus": differing[:1000], "reservations_before": before, "reservations": written, "epoch": done.epoch}
        sales.audit(connection, sale, actor, "repair", detail)
    await gate.ring([sale])
    return done


async def _fence(gate: Gate, sale: str, actor: str) -> None:
    """A sale that Redis lost cannot be fenced, and needs not be: it answers nothing."""
    try:
        await gate.control(sale, "fence", actor=actor, reason=f"under repair by {actor}")
    except GateError as error:
        if await gate.has_state(sale):
            raise NotRepairable(f"{sale} cannot be fenced: {error}") from error


async def _differing(gate: Gate, connection: Connection, sale: str) -> list[str]:
    try:
        redis = await gate.counters(sale)
    except ValueError:  # malformed: then all are written anew, whatever they were
        redis = {}
    ledger = rebuild.counters(connection, sale)
    return sorted(sku for sku in redis.keys() | ledger.keys() if redis.get(sku) != ledger.get(sku))


async def _write(
    gate: Gate,
    connection: Connection,
    sale: str,
    cursor: Position,
    backlog_limit: int,
    progress: Callable[[int], None],
) -> int:
    row = sales.get(connection, sale)
    assert row
    await gate.wipe(sale)
    for counters in _chunks(list(rebuild.counters(connection, sale).items())):
        await gate.write_stock(sale, dict(counters))
    written = 0
    for records in rebuild.reservations(connection, sale, CHUNK):
        await gate.write_reservations(sale, records)
        written += len(records)
        progress(written)
    for buyers in _chunks(rebuild.buyers(connection, sale) if row.per_buyer else []):
        await gate.write_buyers(sale, dict(buyers))
    fields: dict[str, str | int] = rebuild.fields(connection, sale)
    if not row.per_buyer:
        fields["buyer_units"] = 0
    await gate.write_sale(sale, cursor, {**fields, "backlog_limit": backlog_limit})
    return written


def _chunks(values: Sequence[T]) -> list[Sequence[T]]:
    return [values[i : i + CHUNK] for i in range(0, len(values), CHUNK)]
