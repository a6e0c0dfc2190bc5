"""What customers do once they have a reservation: most pay, some late, some never; the waiting list takes the rest."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from gatekeeper.demo.moods import OVERTIME, Mood, mood_of
from gatekeeper.demo.payments import PaymentService
from gatekeeper.demo.shop import Shop
from gatekeeper.gate import Gate

HOLD_SECONDS = 2
WAVES = 12
"""How often the waiting list may be called."""
PATIENCE = 60.0
"""Seconds to wait for the last payment and the last hold."""


@asynccontextmanager
async def open_shop(url: str, key: str, sale: str, payments: PaymentService) -> AsyncIterator[Shop]:
    """A reference shop with connections of its own."""
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=50), timeout=timeout) as session:
        yield Shop(session, url, key, sale, payments)


class Customers:
    """Everybody who got a reservation."""

    def __init__(self, shop: Shop, sku: str) -> None:
        self.reservations: set[str] = set()
        """Ids that the waiting list was told of."""
        self._shop, self._sku = shop, sku
        self._busy: set[asyncio.Task[None]] = set()
        self._waiting = 0

    def follow(self, reservation: dict[str, Any]) -> None:
        """Let a customer with this reservation go on by himself."""
        task = asyncio.create_task(self._customer(reservation))
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)

    async def _customer(self, reservation: dict[str, Any]) -> None:
        mood = mood_of(reservation["id"])
        if mood is Mood.NEVER_PAYS:
            return
        if mood is Mood.PAYS_LATE:
            await asyncio.sleep(HOLD_SECONDS + OVERTIME)
        await self._shop.pay(reservation)

    async def sell_what_comes_back(self, gate: Gate, sale: str, unwanted: int, progress: Callable[[int], None]) -> None:
        """Offer units that come back to the waiting list, until they are sold and nobody is to be waited for.

        `unwanted`: units that nobody asked for in the first place. `progress` hears how many are sold. Gives up after
        PATIENCE: what is still open then shows in the books.
        """
        deadline, waves = time.monotonic() + PATIENCE, 0
        while time.monotonic() < deadline:
            counters = (await gate.counters(sale))[self._sku]
            progress(counters.sold)
            back = max(0, counters.available - unwanted) if waves < WAVES else 0
            await asyncio.gather(*(self._next_in_line() for _ in range(back)))
            if not back and not counters.held and not self._busy:
                return
            waves += 1
            await asyncio.sleep(HOLD_SECONDS / 2)

    async def _next_in_line(self) -> None:
        self._waiting += 1
        name = f"waiting-{self._waiting}"
        answer = await self._shop.reserve(name, [{"sku": self._sku, "quantity": 1}], f"order-{name}")
        if answer.status == 201:
            self.reservations.add(answer.body["id"])
            self.follow(answer.body)
