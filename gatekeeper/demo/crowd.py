"""Thousands of buyers at once over real HTTP, impatient ones among them. Loopback only, bounded in count and time."""

import asyncio
import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp

CONNECTIONS = 500
"""Open at once; a buyer without one waits for it, as behind any load balancer."""
PATIENCE = 30.0
"""Seconds for one request."""
TRIES = 5
"""How often a buyer asks again (same key) when nothing was decided."""


@dataclass(frozen=True, slots=True)
class Shop:
    """Where the crowd buys, and with which header."""

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


async def rush(shop: Shop, buyers: int, progress: Callable[[int], None]) -> Tally:
    """Send all buyers at once and wait for every answer; `progress` hears how many requests were answered."""
    allow_connections(CONNECTIONS + 100)
    tally = Tally()
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE, sock_read=PATIENCE)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        tally.started = time.monotonic()
        await asyncio.gather(*(_buyer(session, shop, i, tally, progress) for i in range(buyers)))
        tally.ended = time.monotonic()
    return tally


async def _buyer(
    session: aiohttp.ClientSession, shop: Shop, buyer: int, tally: Tally, progress: Callable[[int], None]
) -> None:
    for clicks in (_first_clicks(buyer), _later_clicks(buyer)):
        await asyncio.gather(*(_buy(session, shop, buyer, key, tally, progress) for key in clicks))


async def _buy(
    session: aiohttp.ClientSession, shop: Shop, buyer: int, key: str, tally: Tally, progress: Callable[[int], None]
) -> None:
    """Click once; what stays undecided is asked again with the same key."""
    body = json.dumps({"buyer": f"buyer-{buyer}", "items": [{"sku": "JACKET", "quantity": 1}]}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {shop.key}", "Idempotency-Key": key}
    for _ in range(TRIES):
        try:
            status = await _send(session, shop.url, body, headers, tally)
        except (aiohttp.ClientError, TimeoutError):
            status = 0
        if status and status < 500:
            break
        await asyncio.sleep(0.2)
    progress(tally.requests)


async def _send(session: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str], tally: Tally) -> int:
    started = time.monotonic()
    async with session.post(url, data=body, headers=headers) as response:
        content = await response.read()
    now = time.monotonic()
    tally.latencies.append(now - started)
    tally.statuses[response.status] = tally.statuses.get(response.status, 0) + 1
    if response.status == 201:
        key = headers["Idempotency-Key"]
        tally.last_sale = now
        tally.sold_again += key in tally.paid_keys
        tally.paid_keys.add(key)
    if response.status in (200, 201) and content:
        tally.reservations.add(json.loads(content)["id"])
    tally.replays += response.headers.get("Idempotent-Replayed") == "true"
    return response.status


def allow_connections(count: int) -> None:
    """Raise this process's limit of open files as far as `count` needs and the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        limit = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
