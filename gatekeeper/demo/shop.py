"""The reference shop: how a merchant's backend uses the gate. Reserve, charge, confirm; whatever happens, ask again.

Three rules keep units and money together. A charge that was declined: release. A charge whose outcome is unknown:
nothing moves until it is known. A confirm that cannot become a sale: refund, then settle.
"""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import aiohttp

from gatekeeper.demo.payments import Declined, PaymentService, Unknown

TRIES = 20
"""How often to ask again while nothing was decided."""
PAUSE = 0.2
"""Seconds between two tries."""


class Answer(NamedTuple):
    """What the gate answered."""

    status: int
    body: dict[str, Any]
    replayed: bool


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


class Shop:
    """One sale's shop behind a gate at `url`, with an API key of role `shop`."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str, sale: str, payments: PaymentService) -> None:
        self.till = Till()
        self._session, self._payments = session, payments
        self._reservations = f"{url}/v1/sales/{sale}/reservations"
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}

    async def buy(self, buyer: str, items: list[dict[str, Any]], key: str) -> dict[str, Any] | None:
        """Reserve and pay in one go; returns the reservation as it ended, None when it was refused."""
        reserved = await self.reserve(buyer, items, key)
        return await self.pay(reserved.body) if reserved.status in (200, 201) else None

    async def reserve(self, buyer: str, items: list[dict[str, Any]], key: str) -> Answer:
        """Ask for units; the same key again can have no second effect."""
        return await self.ask(self._reservations, {"buyer": buyer, "items": items}, **{"Idempotency-Key": key})

    async def pay(self, reservation: dict[str, Any]) -> dict[str, Any]:
        """Charge and confirm, or give the units back; returns the reservation as it ended."""
        try:
            payment = await self._charge(reservation["id"])
        except Declined:
            self.till.released += 1
            return await self._end(reservation, "release", {"reason": "payment declined"})
        answer = await self.ask(f"{self._reservations}/{reservation['id']}/confirm", {"payment": payment})
        if answer.status == 200:
            self.till.sold.add(payment)
            return answer.body
        refund = await self._payments.refund(payment)
        self.till.refunded.add(payment)
        return await self._end(reservation, "settle", {"refund": refund, "payment": payment})

    async def _charge(self, key: str) -> str:
        """Charge until the outcome is known: while it is not, neither units nor money move."""
        for _ in range(TRIES):
            try:
                return await self._payments.charge(key)
            except Unknown:
                await asyncio.sleep(PAUSE)
        raise GateDown(f"the payment service does not say what became of {key}")

    async def _end(self, reservation: dict[str, Any], verb: str, body: dict[str, str]) -> dict[str, Any]:
        answer = await self.ask(f"{self._reservations}/{reservation['id']}/{verb}", body)
        return answer.body if answer.status == 200 else answer.body.get("reservation", reservation)

    async def ask(self, url: str, body: dict[str, Any], **headers: str) -> Answer:
        """POST until it is decided: after a 5xx, or no answer at all, the same call again finds out."""
        for _ in range(TRIES):
            try:
                async with self._session.post(
                    url, data=json.dumps(body).encode(), headers=self._headers | headers
                ) as response:
                    content = json.loads(await response.read())
                    if response.status < 500:
                        return Answer(response.status, content, response.headers.get("Idempotent-Replayed") == "true")
            except (aiohttp.ClientError, TimeoutError, ValueError):
                pass
            await asyncio.sleep(PAUSE)
        raise GateDown(url)
