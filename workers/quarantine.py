"""What a person decides about events that could not be applied: try again, or undo what they belong to."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from gatekeeper.errors import GatekeeperError, SaleFenced, UnknownSale
from gatekeeper.events import Admit, Confirm, Discard, Event, Grant, MalformedEvent, parse
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection, cursors, quarantine, rebuild, sales, stock
from gatekeeper.ledger.apply import discard as apply_discard
from gatekeeper.ledger.apply import retry as apply_again
from gatekeeper.model import Position, Refund, Reservation
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
    needs_repair: bool = False
    """Only the ledger was made right: Redis did not answer for the sale."""


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

    Raises NotInQuarantine. Where Redis does not answer for the sale, the ledger alone is made right, and a repair then
    makes Redis follow. What names no reservation is taken out, with a note in the audit.
    """
    waiting = quarantine.events(connection, sale)
    payload = dict(waiting).get(position)
    if payload is None:
        raise NotInQuarantine(f"{sale} has no event {position} in quarantine: `gatekeeper quarantine list {sale}`")
    before = quarantine.skus(connection, sale)
    for id in quarantine.named(payload):
        try:
            turn = await gate.discard(sale, id, reason, actor=actor)
        except (SaleFenced, UnknownSale):
            undone = _undone(await gate.record(sale, id) or _rebuilt(connection, sale, id, waiting), waiting)
            if undone is None:
                break
            with connection.transaction():
                cursors.lock(connection, sale)
                apply_discard(connection, sale, position, Discard(now_ms(), id, actor, reason, undone))
            return _discarded(connection, sale, undone, before, repair=True)
        if turn.reservation:
            await drain(gate, connection, sale, keep=keep)
            return _discarded(connection, sale, turn.reservation, before, repair=False)
    with connection.transaction():
        cursors.lock(connection, sale)
        quarantine.drop(connection, sale, position)
        _drop_grant(connection, sale, payload)
        detail: dict[str, object] = {"event": str(position), "payload": payload.decode(errors="replace")}
        sales.audit(connection, sale, actor, "discard", {**detail, "reason": reason})
    return Discarded(paused_skus=_paused(connection, sale, before))


def _rebuilt(connection: Connection, sale: str, id: str, waiting: list[tuple[Position, bytes]]) -> Reservation | None:
    """The reservation as the ledger has it, or as its quarantined admission would have made it."""
    if found := rebuild.reservation(connection, sale, id):
        return found
    for event in _parsed(waiting):
        if isinstance(event, Admit) and event.id == id:
            who = event.buyer, event.key, event.reference, event.items
            return Reservation(sale, id, "held", False, "", event.at_ms, event.expires_ms, *who)
    return None


def _undone(r: Reservation | None, waiting: list[tuple[Position, bytes]]) -> Reservation | None:
    """What `discard` would have made of it: given back, and every payment that came for it due back."""
    if r is None:
        return None
    paid = {event.payment for event in _parsed(waiting) if isinstance(event, Confirm) and event.id == r.id}
    refunds = {refund.payment: refund for refund in r.refunds}
    for payment in sorted({*paid, *([r.payment] if r.payment else [])}):
        refunds.setdefault(payment, Refund(payment, "refund_due"))
    state = "expired" if r.state == "expired" else "released"
    due = tuple(refunds[payment] for payment in sorted(refunds))
    return msgspec.structs.replace(r, state=state, payment="", refunds=due)


def _parsed(waiting: list[tuple[Position, bytes]]) -> Iterator[Event]:
    for _, payload in waiting:
        with suppress(MalformedEvent):
            yield parse(payload)


def _drop_grant(connection: Connection, sale: str, payload: bytes) -> None:
    """A grant that the ledger gives up must not keep the capacity that it raised."""
    with suppress(MalformedEvent):
        event = parse(payload)
        if isinstance(event, Grant):
            stock.drop(connection, sale, event.number, [line.sku for line in event.lines])


def now_ms() -> int:
    """This machine's clock, for an event that Redis did not write."""
    return round(time.time() * 1000)


def _discarded(connection: Connection, sale: str, r: Reservation, before: set[str], *, repair: bool) -> Discarded:
    due = sum(refund.state == "refund_due" for refund in r.refunds)
    return Discarded(r.id, r.state, due, _paused(connection, sale, before), repair)


def _paused(connection: Connection, sale: str, named: set[str]) -> list[str]:
    """Of the SKUs that were named in quarantine: those that are no more, and are paused."""
    free = named - quarantine.skus(connection, sale)
    return sorted(sku for sku, row in stock.rows(connection, sale).items() if sku in free and row.paused)
