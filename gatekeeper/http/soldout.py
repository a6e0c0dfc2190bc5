"""What Redis just said is sold out, for the crowd that goes on asking: answered here, without asking again.

Only for a purchase without an idempotency key: one with a key may be a winner's retry, which Redis alone knows.
"""

import time

from gatekeeper.model import Decision, Items
from gatekeeper.outcomes import Outcome

SECONDS = 0.045
"""How long an answer may be given again: with the way from Redis to here, 50 ms after Redis gave it."""
MAX_CARTS = 1000
"""Carts remembered at once, over all sales."""


class SoldOut:
    """Remembers refusals by sale and cart; units that come back are seen when they run out."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Items], tuple[float, Decision]] = {}

    def remember(self, sale: str, items: Items, decision: Decision) -> None:
        """Note a decision, if it is that the cart is sold out."""
        if decision.outcome is not Outcome.SOLD_OUT:
            return
        known = self._known.get((sale, items))
        if known and known[1] is decision:
            return  # the same batch said so already
        if len(self._known) >= MAX_CARTS:
            self._known.clear()  # they are old, or nobody could say so many different things within 50 ms
        self._known[sale, items] = time.monotonic() + SECONDS, decision

    def recall(self, sale: str, items: Items) -> Decision | None:
        """Return the decision that Redis gave this cart a moment ago; None when it must be asked."""
        known = self._known.get((sale, items))
        return known[1] if known and time.monotonic() < known[0] else None
