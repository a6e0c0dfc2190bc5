"""What a refusal means, as a sentence that says what to do."""

from gatekeeper.cli import fail
from gatekeeper.model import Reservation
from gatekeeper.outcomes import Outcome
from gatekeeper.replies import Changed, Turn

SENTENCES = {
    Outcome.SALE_NOT_OPEN: "sale {sale} is a draft: open it first",
    Outcome.SALE_PAUSED: "sale {sale} is paused: use `gatekeeper sale resume {sale}`",
    Outcome.SALE_CLOSED: "sale {sale} is closed, which is for good",
    Outcome.UNKNOWN_SKU: "sale {sale} has no such SKU: load it with `gatekeeper stock load`",
    Outcome.LIMIT_NOT_COUNTED: "per_buyer: a limit must be set before the sale opens; what was bought is not counted",
    Outcome.NOT_A_DRAFT: "sale {sale} was opened and can only be closed: its books are kept",
}


ENDINGS = {
    Outcome.UNKNOWN_RESERVATION: "sale {sale} has no reservation {id}",
    Outcome.HOLD_EXPIRED: "reservation {id} has expired: its units are back already",
    Outcome.NOT_HELD: "reservation {id} is sold: to undo the sale give --reason refund or --reason rejected",
    Outcome.NOTHING_DUE: "no payment of reservation {id} is due back",
    Outcome.REFUND_MISMATCH: "that payment of reservation {id} was refunded by another refund",
    Outcome.PAYMENT_AMBIGUOUS: "several payments of reservation {id} are due back: name one with --payment",
}


def ended(sale: str, id: str, turn: Turn) -> Reservation:
    """Return the reservation as it is now, or exit with 1 and the refusal's sentence."""
    if turn.reservation and turn.outcome not in ENDINGS:
        return turn.reservation
    fail(ENDINGS[turn.outcome].format(sale=sale, id=id))


def accepted(sale: str, changed: Changed) -> Changed:
    """Return what changed, or exit with 1 and the refusal's sentence."""
    if changed.outcome is not Outcome.OK:
        fail(SENTENCES.get(changed.outcome, f"{changed.outcome}: {changed.detail}").format(sale=sale))
    return changed
