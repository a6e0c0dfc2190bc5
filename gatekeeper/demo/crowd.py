"""Thousands of buyers at once over real HTTP, impatient ones among them. Loopback only, bounded in count and time."""

import asyncio
import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

CONNECTIONS = 500
"""Open at once; a buyer without one waits for it, as behind any load balancer."""
PATIENCE = 30.0
"""Seconds for one request."""
TRIES = 5
"""How often a buyer asks again (same key) when nothing was decided."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where the crowd buys, and with which API key."""

    url: str
    key: str = ""


@dataclass(slots=True)
class Tally:
    """What the crowd saw, request by request. Times in seconds."""

    started: float = 0.0
    ended: float = 0.0
    last_sale: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    reservations: set[str] = field(default_factory=set)
    replays: int = 0
    paid_keys: set[str] = field(default_factory=set)
    sold_again: int = 0
    """Retries that were sold one more unit."""

    def count(self, started: float, status: int, key: str, content: bytes, replayed: bool) -> None:
        """Count one answer to a request of this idempotency key."""
        now = time.monotonic()
        self.latencies.append(now - started)
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status == 201:
            self.last_sale = now
            self.sold_again += key in self.paid_keys
            self.paid_keys.add(key)
        if status in (200, 201) and content:
            self.reservations.add(json.loads(content)["id"])
        self.replays += replayed

    @property
    def requests(self) -> int:
        """Requests answered."""
        return len(self.latencies)

    @property
    def created(self) -> int:
        """Answers 201: units that a buyer was told are his."""
        return self.statuses.get(201, 0)

    def percentile(self, share: float) -> float:
        """Latency in ms that this share of the requests did not exceed."""
        ordered = sorted(self.latencies)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    def rate(self, count: int, until: float) -> float:
        """`count` per second from the start to `until`."""
        return count / max(until - self.started, 1e-3)


def requests_of(buyers: int) -> int:
    """How many requests `rush` sends at the least."""
    return sum(len(_first_clicks(i)) + len(_later_clicks(i)) for i in range(buyers))


def _first_clicks(buyer: int) -> list[str]:
    """Idempotency keys sent at once: every fifth buyer double-clicks, every thirteenth has a second cart open."""
    clicks = [f"order-{buyer}"]
    if buyer % 5 == 0:
        clicks.append(f"order-{buyer}")
    if buyer % 13 == 0:
        clicks.append(f"second-{buyer}")
    return clicks


def _later_clicks(buyer: int) -> list[str]:
    """Keys sent again after an answer: every seventh buyer reloads the page."""
    return [f"order-{buyer}"] if buyer % 7 == 0 else []


def nothing_follows(reservation: dict[str, Any]) -> None:
    """What a reservation leads to where nobody pays."""


async def rush(
    address: Address,
    buyers: int,
    progress: Callable[[int], None],
    won: Callable[[dict[str, Any]], None] = nothing_follows,
) -> Tally:
    """Send all buyers at once and wait for every answer.

    `progress` hears how many requests were answered, `won` each new reservation as the gate described it.
    """
    allow_connections(CONNECTIONS + 100)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE, sock_read=PATIENCE)
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        crowd = _Crowd(session, address, progress, won)
        crowd.tally.started = time.monotonic()
        await asyncio.gather(*(crowd.buyer(number) for number in range(buyers)))
        crowd.tally.ended = time.monotonic()
    return crowd.tally


class _Crowd:
    """All buyers over one pool of connections. A request is timed once it has a connection."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        address: Address,
        progress: Callable[[int], None],
        won: Callable[[dict[str, Any]], None],
    ) -> None:
        self.tally = Tally()
        self._session, self._address, self._progress, self._won = session, address, progress, won
        self._free = asyncio.Semaphore(CONNECTIONS)

    async def buyer(self, number: int) -> None:
        """Click, wait for the answers, perhaps click again."""
        for keys in (_first_clicks(number), _later_clicks(number)):
            await asyncio.gather(*(self._buy(f"buyer-{number}", key) for key in keys))

    async def _buy(self, buyer: str, key: str) -> None:
        """Click once; what stays undecided is asked again with the same key."""
        body = json.dumps({"buyer": buyer, "items": [{"sku": "JACKET", "quantity": 1}]}).encode()
        for _ in range(TRIES):
            try:
                status = await self._send(body, key)
            except (aiohttp.ClientError, TimeoutError):
                status = 503
            if status < 500:
                break
            await asyncio.sleep(0.2)
        self._progress(self.tally.requests)

    async def _send(self, body: bytes, key: str) -> int:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._address.key}"}
        async with self._free:
            started = time.monotonic()
            async with self._session.post(
                self._address.url, data=body, headers={**headers, "Idempotency-Key": key}
            ) as response:
                content = await response.read()
            replayed = response.headers.get("Idempotent-Replayed") == "true"
            self.tally.count(started, response.status, key, content, replayed)
        if response.status == 201 and content:
            self._won(json.loads(content))
        return response.status


def allow_connections(count: int) -> None:
    """Raise this process's limit of open files as far as `count` needs and the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        limit = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
