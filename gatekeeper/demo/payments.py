"""A payment service that behaves like real ones: it takes its time, declines, and sometimes does not answer.

Simulated, in this process. What becomes of a charge depends on its key alone, so a run can be repeated.
"""

import asyncio
from dataclasses import dataclass, field
from hashlib import sha256

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


@dataclass(slots=True)
class PaymentService:
    """Charges and refunds, each once per key however often it is asked."""

    charged: set[str] = field(default_factory=set)
    """Payments that took money, whether or not the client ever heard."""
    refunded: dict[str, str] = field(default_factory=dict)
    """Payment → refund."""
    _known_from: dict[str, float] = field(default_factory=dict)

    async def charge(self, key: str) -> str:
        """Charge once per key; returns the payment. Raises Declined, or Unknown when no answer came in time."""
        if payment := await self._known(key):
            return payment
        luck = _luck(key, "charge")
        if luck < TIMES_OUT:
            self._known_from.setdefault(key, asyncio.get_running_loop().time() + SETTLES)
            if luck < TIMES_OUT / 2:
                self.charged.add(f"pay-{key}")
            await asyncio.sleep(TIMEOUT)
            raise Unknown
        await asyncio.sleep(LATENCY[0] + (LATENCY[1] - LATENCY[0]) * _luck(key, "latency"))
        if luck < TIMES_OUT + DECLINES:
            raise Declined
        self.charged.add(f"pay-{key}")
        return f"pay-{key}"

    async def _known(self, key: str) -> str:
        """What became of a charge that timed out; "" when there was none. Raises Declined, or Unknown for now."""
        if key not in self._known_from:
            return ""
        await asyncio.sleep(LATENCY[0])
        if asyncio.get_running_loop().time() < self._known_from[key]:
            raise Unknown
        if f"pay-{key}" not in self.charged:
            raise Declined
        return f"pay-{key}"

    async def refund(self, payment: str) -> str:
        """Give a payment's money back; returns the refund, the same one however often it is asked."""
        await asyncio.sleep(LATENCY[0])
        return self.refunded.setdefault(payment, f"back-{payment}")


def _luck(key: str, about: str) -> float:
    """A number from 0 to 1 that depends on the key alone."""
    return int.from_bytes(sha256(f"{about}:{key}".encode()).digest()[:4], "big") / 2**32
