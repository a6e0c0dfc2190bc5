"""The events of a sale's outbox, as the scripts write them and the drain reads them.

A payload is lines, each ended by a newline, and as many as its type needs: a cut payload never parses. Every field is
required, none is optional, none is ignored. Times are ms since 1970 by Redis's clock.
"""

from collections.abc import Callable

from gatekeeper.model import RESERVATION_ID, Items, Position, Reservation, Value, unpack_items


class MalformedEvent(ValueError):
    """A payload that is not exactly what a script writes; it goes to quarantine."""


class Admit(Value, frozen=True):
    """A reservation was made: its items are held until `expires_ms`."""

    at_ms: int
    id: str
    expires_ms: int
    buyer: str
    key: str
    reference: str
    items: Items


class Confirm(Value, frozen=True):
    """A payment arrived: `outcome` is sold, late (overdue, but not swept), retaken (expired) or refund_due."""

    at_ms: int
    id: str
    actor: str
    payment: str
    outcome: str


class Release(Value, frozen=True):
    """A hold, or (`origin` sold) a sale, was given back."""

    at_ms: int
    id: str
    actor: str
    origin: str
    reason: str


class Expire(Value, frozen=True):
    """A hold passed its deadline, and its units are available again."""

    at_ms: int
    id: str


class Settle(Value, frozen=True):
    """A payment that was due back was refunded."""

    at_ms: int
    id: str
    actor: str
    payment: str
    refund: str


class Discard(Value, frozen=True):
    """A reservation was undone because the ledger could not take an event of it; `record` is all that it is now."""

    at_ms: int
    id: str
    actor: str
    reason: str
    record: Reservation


class GrantLine(Value, frozen=True):
    """One SKU's part of a grant, units; negative: taken back."""

    sku: str
    delta: int
    tracked: bool


class Grant(Value, frozen=True):
    """Redis was given stock (or gave some back), by a numbered grant."""

    at_ms: int
    number: int
    actor: str
    reason: str
    lines: tuple[GrantLine, ...]


class Control(Value, frozen=True):
    """The sale's state, settings or one SKU's pause changed; carries all settings as they are after it."""

    at_ms: int
    action: str
    actor: str
    state: str
    opens_at_ms: int
    closes_at_ms: int
    per_buyer: int
    hold_ms: int
    sku: str


class CheckpointLine(Value, frozen=True):
    """Redis's own counters of one SKU at the event's position, units."""

    sku: str
    available: int
    held: int
    sold: int
    granted: int


class Checkpoint(Value, frozen=True):
    """What Redis counted at this very position; the ledger must count the same."""

    at_ms: int
    buyer_units: int | None
    """Units that all buyers' counts come to; None: the sale has no limit per buyer, and counts none."""
    lines: tuple[CheckpointLine, ...]


class Epoch(Value, frozen=True):
    """The first event of a new epoch; names the last position of the one before."""

    at_ms: int
    predecessor: Position
    actor: str


Change = Confirm | Release | Expire | Settle
"""What may happen to a reservation after it was made."""

Event = Admit | Change | Discard | Grant | Control | Checkpoint | Epoch


def _number(text: str) -> int:
    """Read a number just as Lua writes it: no sign but a minus, no space, no leading zero."""
    number = int(text)
    if str(number) != text:
        raise ValueError(f"malformed number {text!r}")
    return number


def _natural(text: str) -> int:
    number = _number(text)
    if number < 0:
        raise ValueError(f"negative number {text!r}")
    return number


def _flag(text: str) -> bool:
    return {"0": False, "1": True}[text]


def _words(text: str, size: int) -> list[list[str]]:
    """Split "a b c d …" into groups of `size` words; no word may be empty."""
    words = text.split(" ") if text else []
    if len(words) % size or "" in words:
        raise ValueError(f"malformed list {text!r}")
    return [words[i : i + size] for i in range(0, len(words), size)]


def _required(text: str) -> str:
    if not text:
        raise ValueError("empty field")
    return text


def _id(text: str) -> str:
    if not RESERVATION_ID.fullmatch(text):
        raise ValueError(f"malformed reservation id {text!r}")
    return text


def _one_of(text: str, *words: str) -> str:
    if text not in words:
        raise ValueError(f"expected one of {', '.join(words)}, not {text!r}")
    return text


def _admit(at: str, id: str, expires: str, buyer: str, key: str, reference: str, items: str) -> Admit:
    cart = unpack_items(items)
    return Admit(_natural(at), _id(id), _natural(expires), _required(buyer), _required(key), reference, cart)


def _confirm(at: str, id: str, actor: str, payment: str, outcome: str) -> Confirm:
    outcome = _one_of(outcome, "sold", "late", "retaken", "refund_due")
    return Confirm(_natural(at), _id(id), _required(actor), _required(payment), outcome)


def _release(at: str, id: str, actor: str, origin: str, reason: str) -> Release:
    if _one_of(origin, "held", "sold") == "sold":
        _one_of(reason, "refund", "rejected")
    return Release(_natural(at), _id(id), _required(actor), origin, _required(reason))


def _expire(at: str, id: str) -> Expire:
    return Expire(_natural(at), _id(id))


def _settle(at: str, id: str, actor: str, payment: str, refund: str) -> Settle:
    return Settle(_natural(at), _id(id), _required(actor), _required(payment), _required(refund))


def _discard(at: str, id: str, actor: str, reason: str, lines: str, *record: str) -> Discard:
    if _natural(lines) != len(record):
        raise ValueError(f"a record of {len(record)} lines instead of {lines}")
    found = Reservation.from_record("", _id(id), "\n".join((*record, "")))
    _one_of(found.state, "released", "expired")
    for refund in found.refunds:
        _one_of(refund.state, "refund_due", "refunded", "rejected")
    return Discard(_natural(at), id, _required(actor), _required(reason), found)


def _grant(at: str, number: str, actor: str, reason: str, lines: str) -> Grant:
    parsed = tuple(GrantLine(sku, _number(delta), _flag(tracked)) for sku, delta, tracked in _words(lines, 3))
    return Grant(_natural(at), _natural(number), _required(actor), reason, parsed)


def _control(
    at: str, action: str, actor: str, state: str, opens: str, closes: str, per_buyer: str, hold: str, sku: str
) -> Control:
    settings = _natural(opens), _natural(closes), _natural(per_buyer), _natural(hold)
    return Control(_natural(at), _required(action), _required(actor), _required(state), *settings, sku)


def _checkpoint(at: str, buyer_units: str, lines: str) -> Checkpoint:
    parsed = tuple(CheckpointLine(sku, *map(_natural, counts)) for sku, *counts in _words(lines, 5))
    return Checkpoint(_natural(at), _natural(buyer_units) if buyer_units else None, parsed)


def _epoch(at: str, predecessor: str, actor: str) -> Epoch:
    return Epoch(_natural(at), Position.parse(predecessor), _required(actor))


_PARSERS: dict[str, Callable[..., Event]] = {
    "admit": _admit,
    "confirm": _confirm,
    "release": _release,
    "expire": _expire,
    "settle": _settle,
    "discard": _discard,
    "grant": _grant,
    "control": _control,
    "checkpoint": _checkpoint,
    "epoch": _epoch,
}


def parse(payload: bytes) -> Event:
    """Return the event of a stream entry's `event` field, or raise MalformedEvent saying what is wrong with it."""
    try:
        type_, *fields, end = payload.decode().split("\n")
        if end:
            raise ValueError("cut short")
        return _PARSERS[type_](*fields)
    except (ValueError, KeyError, TypeError) as error:
        raise MalformedEvent(f"{type(error).__name__}: {error}") from error
