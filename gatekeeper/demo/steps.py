"""What the reference shop decides, as steps without I/O: asyncio (shop.py) and gevent (bench/) walk the same steps.

Three rules keep units and money together. A charge that was declined: release. A charge whose outcome is unknown:
nothing moves until it is known. A confirm that cannot become a sale: refund, then settle.
"""

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from gatekeeper.demo.payments import Declined, Unknown

T = TypeVar("T")

TRIES = 20
"""How often to ask again while nothing was decided."""
PAUSE = 0.2
"""Seconds between two tries."""


class Answer(NamedTuple):
    """What the gate answered; status 0 when no answer came."""

    status: int
    body: dict[str, Any]
    replayed: bool


NO_ANSWER = Answer(0, {}, False)


class Ask(NamedTuple):
    """POST this below the sale's reservations, with this idempotency key if there is one; answered by an Answer."""

    path: str
    body: dict[str, Any]
    key: str = ""


class Charge(NamedTuple):
    """Charge once per key; answered by the payment, or by Declined or Unknown thrown in."""

    key: str


class Refund(NamedTuple):
    """Give this payment's money back; answered by the refund."""

    payment: str


class Wait(NamedTuple):
    """Let this many seconds pass."""

    seconds: float


Steps = Generator[Ask | Charge | Refund | Wait, Any, T]
"""Yields what to do next, is sent what came of it, and returns a T."""


class GateDown(Exception):
    """Nothing was decided for as long as the shop cared to ask."""


@dataclass(slots=True)
class Till:
    """What the shop knows of its payments when all is over."""

    sold: set[str] = field(default_factory=set)
    """Payments that made a sale."""
    refunded: set[str] = field(default_factory=set)
    """Payments that came too late, and were given back."""
    released: int = 0
    """Holds given back because the charge was declined."""


def ask(path: str, body: dict[str, Any], key: str = "") -> Steps[Answer]:
    """Ask until it is decided: after a 5xx, or no answer at all, the same call again finds out. Raises GateDown."""
    for _ in range(TRIES):
        answer: Answer = yield Ask(path, body, key)
        if 0 < answer.status < 500:
            return answer
        yield Wait(PAUSE)
    raise GateDown(path or "reserve")


def reserve(buyer: str, items: list[dict[str, Any]], key: str) -> Steps[Answer]:
    """Ask for units; the same key again can have no second effect."""
    return ask("", {"buyer": buyer, "items": items}, key)


def pay(reservation: dict[str, Any], till: Till) -> Steps[dict[str, Any]]:
    """Charge and confirm, or give the units back; returns the reservation as it ended."""
    try:
        payment = yield from _charge(reservation["id"])
    except Declined:
        till.released += 1
        return (yield from _end(reservation, "release", {"reason": "payment declined"}))
    answer = yield from ask(f"/{reservation['id']}/confirm", {"payment": payment})
    if answer.status == 200:
        till.sold.add(payment)
        return answer.body
    refund = yield Refund(payment)
    till.refunded.add(payment)
    return (yield from _end(reservation, "settle", {"refund": refund, "payment": payment}))


def _charge(key: str) -> Steps[str]:
    """Charge until the outcome is known: while it is not, neither units nor money move."""
    for _ in range(TRIES):
        try:
            payment: str = yield Charge(key)
            return payment
        except Unknown:
            yield Wait(PAUSE)
    raise GateDown(f"the payment service does not say what became of {key}")


def _end(reservation: dict[str, Any], verb: str, body: dict[str, str]) -> Steps[dict[str, Any]]:
    answer = yield from ask(f"/{reservation['id']}/{verb}", body)
    ended: dict[str, Any] = answer.body if answer.status == 200 else answer.body.get("reservation", reservation)
    return ended
