"""A payment service that behaves like real ones: it takes its time, declines, and sometimes does not answer.

Simulated, in this process. What becomes of a charge depends on its key alone, so a run can be repeated.
"""

import asyncio
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

DECLINES = 0.10
TIMES_OUT = 0.05
"""Share of charges whose answer never comes: half of them went through all the same."""
LATENCY = (0.02, 0.2)
"""Seconds, from and to."""
TIMEOUT = 0.3
"""Seconds after which a client gives up on an answer."""
SETTLES = 0.8
"""Seconds after which the service itself knows what became of a charge that timed out."""


class Declined(Exception):
    """Nothing was charged, and nothing will be."""


class Unknown(Exception):
    """No answer came: charged or not, nobody knows yet. Ask again."""


class Attempt(NamedTuple):
    """What comes of one try to charge."""

    seconds: float
    """Until the client hears of it, or gives up."""
    payment: str
    """"" when `refusal` says why there is none."""
    refusal: type[Declined | Unknown] | None


@dataclass(slots=True)
class PaymentBooks:
    """What the service decides and remembers; whoever asks does the waiting."""

    charged: set[str] = field(default_factory=set)
    """Payments that took money, whether or not the client ever heard."""
    refunded: dict[str, str] = field(default_factory=dict)
    """Payment → refund."""
    _known_from: dict[str, float] = field(default_factory=dict)

    def attempt(self, key: str, now: float) -> Attempt:
        """Charge once per key however often it is asked; `now` is in seconds of any clock that does not jump."""
        payment, luck = f"pay-{key}", luck_of(key, "charge")
        if key in self._known_from:
            return self._known(key, now)
        if luck < TIMES_OUT:
            self._known_from[key] = now + SETTLES
            if luck < TIMES_OUT / 2:
                self.charged.add(payment)
            return Attempt(TIMEOUT, "", Unknown)
        seconds = LATENCY[0] + (LATENCY[1] - LATENCY[0]) * luck_of(key, "latency")
        if luck < TIMES_OUT + DECLINES:
            return Attempt(seconds, "", Declined)
        self.charged.add(payment)
        return Attempt(seconds, payment, None)

    def _known(self, key: str, now: float) -> Attempt:
        """What became of a charge that timed out, as soon as the service itself knows."""
        payment, seconds = f"pay-{key}", LATENCY[0]
        if now + seconds < self._known_from[key]:
            return Attempt(seconds, "", Unknown)
        if payment not in self.charged:
            return Attempt(seconds, "", Declined)
        return Attempt(seconds, payment, None)

    def give_back(self, payment: str) -> str:
        """Refund a payment; returns the refund, the same one however often it is asked."""
        return self.refunded.setdefault(payment, f"back-{payment}")


class PaymentService(PaymentBooks):
    """The same for asyncio."""

    async def charge(self, key: str) -> str:
        """Charge once per key; returns the payment. Raises Declined, or Unknown when no answer came in time."""
        attempt = self.attempt(key, asyncio.get_running_loop().time())
        await asyncio.sleep(attempt.seconds)
        if attempt.refusal:
            raise attempt.refusal
        return attempt.payment

    async def refund(self, payment: str) -> str:
        """Give a payment's money back; returns the refund, the same one however often it is asked."""
        await asyncio.sleep(LATENCY[0])
        return self.give_back(payment)


def luck_of(key: str, about: str) -> float:
    """A number from 0 to 1 that depends on the key alone."""
    return int.from_bytes(sha256(f"{about}:{key}".encode()).digest()[:4], "big") / 2**32
