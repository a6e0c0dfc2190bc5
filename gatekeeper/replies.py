"""What the scripts answer, as values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gatekeeper.model import Decision, Purchase, Reservation, Shortage
from gatekeeper.outcomes import OUTCOMES, Outcome


@dataclass(frozen=True, slots=True)
class Changed:
    """Answer of `control`: the sale's state now, and whether this call changed anything."""

    outcome: Outcome
    state: str = ""
    changed: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """Answer of `confirm`, `release` and `settle`: the reservation as it is now; None when there is none of that id."""

    outcome: Outcome
    reservation: Reservation | None = None
    changed: bool = False
    """False: it had been so, by an earlier call of the same, or cannot be so."""


@dataclass(frozen=True, slots=True)
class Swept:
    """Answer of `expire`. Times are ms since 1970 by Redis's clock."""

    now_ms: int
    expired: int
    """Holds whose units are buyable again."""
    oldest_ms: int
    """The earliest deadline before the call; 0 without any hold."""
    next_ms: int
    """The earliest deadline after it; 0 without any hold."""


@dataclass(frozen=True, slots=True)
class Granted:
    """Answer of `grant`: the last number applied; `not_available` names what each SKU lacks."""

    outcome: Outcome
    last: int = 0
    lacking: tuple["Lacking", ...] = ()
    sku: str = ""


@dataclass(frozen=True, slots=True)
class Lacking:
    """Why units of a SKU cannot be taken back: `lacking` more than are available."""

    sku: str
    lacking: int
    available: int
    held: int
    sold: int


@dataclass(frozen=True, slots=True)
class Replication:
    """Who a Redis is: `id` changes when it restarts or takes over, `former` is the one that it took over from."""

    id: str
    former: str


@dataclass(frozen=True, slots=True)
class Mark:
    """What a sale was proven on, and why it is fenced ("" = it is not)."""

    version: str
    replid: str
    fence: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A script's answer other than `ok`, and what came with it."""

    outcome: Outcome
    details: list[Any]


_ADMITTED = Outcome.ADMITTED.encode()
_REPLAYED = Outcome.REPLAYED.encode()


def decisions(purchases: Sequence[Purchase], now: int, expires: int, replies: Sequence[Any]) -> list[Decision]:
    """Translate the decisions of `admit`, one per purchase; who is refused in the same words gets the same one.

    A reply is a word, or a list of a word and what belongs to it.
    """
    made: list[Decision] = []
    refused: Any = None
    for purchase, reply in zip(purchases, replies, strict=True):
        if reply == _ADMITTED:
            made.append(Decision(Outcome.ADMITTED, Reservation.admitted(purchase, now, expires)))
        elif reply[0] == _REPLAYED:
            found = Reservation.from_record(purchase.sale, purchase.id, reply[1].decode())
            made.append(Decision(Outcome.REPLAYED, found))
        else:
            if reply != refused:
                refusal, refused = _refusal(reply), reply
            made.append(refusal)
    return made


def _refusal(reply: bytes | list[Any]) -> Decision:
    if isinstance(reply, bytes):
        return Decision(OUTCOMES[reply])
    outcome, details = OUTCOMES[reply[0]], reply[1:]
    match outcome:
        case Outcome.SOLD_OUT:
            rows = (details[i : i + 4] for i in range(0, len(details), 4))
            return Decision(outcome, shortages=tuple(Shortage(sku.decode(), *counts) for sku, *counts in rows))
        case Outcome.UNKNOWN_SKU | Outcome.SKU_PAUSED:
            return Decision(outcome, skus=tuple(sku.decode() for sku in details))
        case Outcome.SALE_NOT_OPEN:
            return Decision(outcome, opens_at_ms=details[0])
        case Outcome.BUYER_LIMIT:
            return Decision(outcome, limit=details[0])
        case _:
            return Decision(outcome)
