"""What a sale should do, in the plainest Python: no batching, no events, no ledger, only the rules of DESIGN.md."""

from collections import Counter
from dataclasses import dataclass, field

from gatekeeper.model import Counters
from gatekeeper.outcomes import Outcome as O

SKUS = ("A", "B", "U")
"""U is not tracked."""


@dataclass
class Life:
    """One reservation."""

    buyer: str
    cart: Counter[str]
    state: str = "held"
    late: bool = False
    payment: str = ""
    overdue: bool = False
    refunds: dict[str, tuple[str, str]] = field(default_factory=dict)
    """payment → (state, refund)"""


class Model:
    """A sale: everything that may be asked of it returns the outcome that the gate must give."""

    def __init__(self, limit: int) -> None:
        self.state, self.limit = "draft", limit
        self.granted = dict.fromkeys(SKUS, 0)
        self.paused: set[str] = set()
        self.lives: dict[str, Life] = {}
        """By reservation id."""

    # ── what follows from the reservations ───────────────────────────────────────────────────────────────────────

    def units(self, sku: str, state: str) -> int:
        return sum(life.cart[sku] for life in self.lives.values() if life.state == state)

    def counters(self, sku: str) -> Counters:
        held, sold, granted = self.units(sku, "held"), self.units(sku, "sold"), self.granted[sku]
        available = 0 if sku == "U" else granted - held - sold
        return Counters(available, held, sold, granted, sku != "U", sku in self.paused)

    def buyers(self) -> dict[str, int]:
        """Units that count against the limit; nobody is counted without one."""
        counts: Counter[str] = Counter()
        for life in self.lives.values():
            if life.state in ("held", "sold"):
                counts[life.buyer] += life.cart.total()
        return dict(counts) if self.limit else {}

    def _short(self, cart: Counter[str]) -> bool:
        return any(sku != "U" and self.counters(sku).available < units for sku, units in cart.items())

    def _over(self, buyer: str, cart: Counter[str]) -> bool:
        return bool(self.limit) and self.buyers().get(buyer, 0) + cart.total() > self.limit

    # ── the verbs ────────────────────────────────────────────────────────────────────────────────────────────────

    def move(self, action: str) -> bool:
        """Whether the sale changes."""
        origins = {"open": ["draft"], "pause": ["open"], "resume": ["paused"], "close": ["open", "paused"]}
        if self.state not in origins[action]:
            return False
        self.state = {"open": "open", "pause": "paused", "resume": "open", "close": "closed"}[action]
        return True

    def grant(self, sku: str, capacity: int) -> bool:
        """Whether the merchant's statement is accepted."""
        if capacity < self.units(sku, "held") + self.units(sku, "sold"):
            return False
        self.granted[sku] = capacity
        return True

    def admit(self, id: str, buyer: str, items: list[tuple[str, int]]) -> O:
        cart: Counter[str] = Counter()
        for sku, units in items:
            cart[sku] += units
        if id in self.lives:
            return O.REPLAYED if self.lives[id].cart == cart else O.IDEMPOTENCY_MISMATCH
        if self.state != "open":
            return {"draft": O.SALE_NOT_OPEN, "paused": O.SALE_PAUSED, "closed": O.SALE_CLOSED}[self.state]
        if self.paused & cart.keys():
            return O.SKU_PAUSED
        if self._short(cart):
            return O.SOLD_OUT
        if self._over(buyer, cart):
            return O.BUYER_LIMIT
        self.lives[id] = Life(buyer, cart)
        return O.ADMITTED

    def confirm(self, id: str, payment: str) -> tuple[O, bool]:
        """The outcome, and whether anything changes."""
        life = self.lives[id]
        why = {"sold": O.PAYMENT_MISMATCH, "expired": O.HOLD_EXPIRED, "released": O.NOT_HELD}
        if life.state == "sold" and life.payment == payment:
            return O.CONFIRMED, False
        if payment in life.refunds:
            return why[life.state], False
        retaken = life.state == "expired" and not life.refunds and not self.paused & life.cart.keys()
        retaken = retaken and not self._short(life.cart) and not self._over(life.buyer, life.cart)
        if life.state == "held" or retaken:
            life.late = life.overdue
            life.state, life.payment = "sold", payment
            return O.CONFIRMED, True
        life.refunds[payment] = ("refund_due", "")
        return why[life.state], True

    def release(self, id: str, reason: str, buyer: str = "") -> tuple[O, bool]:
        life = self.lives[id]
        if buyer and buyer != life.buyer:
            return O.UNKNOWN_RESERVATION, False
        if life.state == "released":
            return O.RELEASED, False
        if life.state == "expired":
            return O.HOLD_EXPIRED, False
        if life.state == "sold":
            if buyer or reason not in ("refund", "rejected"):
                return O.NOT_HELD, False
            life.refunds[life.payment] = ("refund_due" if reason == "refund" else "rejected", "")
            life.payment = ""
        life.state = "released"
        return O.RELEASED, True

    def settle(self, id: str, refund: str, payment: str = "") -> tuple[O, bool]:
        considered = {p: r for p, r in self.lives[id].refunds.items() if payment in ("", p)}
        due = [p for p, (state, _) in considered.items() if state == "refund_due"]
        if ("refunded", refund) in considered.values():
            return O.SETTLED, False
        if not due:
            settled = any(state == "refunded" for state, _ in considered.values())
            return O.REFUND_MISMATCH if settled else O.NOTHING_DUE, False
        if len(due) > 1:
            return O.PAYMENT_AMBIGUOUS, False
        self.lives[id].refunds[due[0]] = ("refunded", refund)
        return O.SETTLED, True

    def expire(self, id: str) -> None:
        self.lives[id].state = "expired"
