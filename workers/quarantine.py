"""What a person decides about events that could not be applied: try again, or undo what they belong to."""

from dataclasses import dataclass, field

from gatekeeper.errors import GatekeeperError
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection, cursors, quarantine, sales, stock
from gatekeeper.ledger.apply import retry as apply_again
from gatekeeper.model import Position
from workers.drain import drain


class NotInQuarantine(GatekeeperError):
    """There is no such event there."""


@dataclass(frozen=True, slots=True)
class Discarded:
    """What became of a discarded event's reservation; "" when Redis has none that it names."""

    reservation: str = ""
    state: str = ""
    refunds_due: int = 0
    paused_skus: list[str] = field(default_factory=list)
    """Still paused, though nothing in quarantine names them any more."""


async def retry(gate: Gate, connection: Connection, sale: str) -> tuple[int, int, list[str]]:
    """Apply what can be applied now; returns how many were, how many stay, and SKUs that are paused for nothing now."""
    before = quarantine.skus(connection, sale)
    with connection.transaction():
        cursors.lock(connection, sale)
        applied, left = apply_again(connection, sale)
    return applied, left, _paused(connection, sale, before)


async def discard(
    gate: Gate, connection: Connection, sale: str, position: Position, reason: str, *, keep: int, actor: str
) -> Discarded:
    """Give up an event, and undo its reservation in Redis; the event of that undoes it in the ledger too.

    Raises NotInQuarantine. What names no reservation is taken out, with a note in the audit.
    """
    payload = dict(quarantine.events(connection, sale)).get(position)
    if payload is None:
        raise NotInQuarantine(f"{sale} has no event {position} in quarantine: `gatekeeper quarantine list {sale}`")
    before = quarantine.skus(connection, sale)
    for id in quarantine.named(payload):
        turn = await gate.discard(sale, id, reason, actor=actor)
        if turn.reservation:
            await drain(gate, connection, sale, keep=keep)
            due = sum(refund.state == "refund_due" for refund in turn.reservation.refunds)
            return Discarded(id, turn.reservation.state, due, _paused(connection, sale, before))
    with connection.transaction():
        cursors.lock(connection, sale)
        quarantine.drop(connection, sale, position)
        detail: dict[str, object] = {"event": str(position), "payload": payload.decode(errors="replace")}
        sales.audit(connection, sale, actor, "discard", {**detail, "reason": reason})
    return Discarded(paused_skus=_paused(connection, sale, before))


def _paused(connection: Connection, sale: str, named: set[str]) -> list[str]:
    """Of the SKUs that were named in quarantine: those that are no more, and are paused."""
    free = named - quarantine.skus(connection, sale)
    return sorted(sku for sku, row in stock.rows(connection, sale).items() if sku in free and row.paused)
