"""The reference shop: how a merchant's backend uses the gate. Reserve, charge, confirm; whatever happens, ask again.

What it decides, and its three rules, are in steps.py; this is how it talks, by asyncio.
"""

import asyncio
import json
from typing import Any

import aiohttp

from gatekeeper.demo import steps
from gatekeeper.demo.payments import Declined, PaymentService, Unknown
from gatekeeper.demo.steps import NO_ANSWER, Answer, Ask, Charge, Refund, Steps, T, Till, Wait


class Shop:
    """One sale's shop behind a gate at `url`, with an API key of role `shop`. Every method may raise GateDown."""

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
        return await self._walk(steps.reserve(buyer, items, key))

    async def pay(self, reservation: dict[str, Any]) -> dict[str, Any]:
        """Charge and confirm, or give the units back; returns the reservation as it ended."""
        return await self._walk(steps.pay(reservation, self.till))

    async def _walk(self, way: Steps[T]) -> T:
        try:
            step = next(way)
            while True:
                try:
                    came = await self._take(step)
                except (Declined, Unknown) as error:
                    step = way.throw(error)
                else:
                    step = way.send(came)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _take(self, step: Ask | Charge | Refund | Wait) -> Answer | str | None:
        match step:
            case Ask():
                return await self._post(step)
            case Charge(key):
                return await self._payments.charge(key)
            case Refund(payment):
                return await self._payments.refund(payment)
            case Wait(seconds):
                await asyncio.sleep(seconds)
                return None

    async def _post(self, ask: Ask) -> Answer:
        headers = self._headers | ({"Idempotency-Key": ask.key} if ask.key else {})
        url, body = self._reservations + ask.path, json.dumps(ask.body).encode()
        try:
            async with self._session.post(url, data=body, headers=headers) as response:
                content = json.loads(await response.read())
                return Answer(response.status, content, response.headers.get("Idempotent-Replayed") == "true")
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return NO_ANSWER
