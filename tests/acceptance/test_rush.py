"""A whole stack under a crowd: two front doors (one of two processes), one worker, real engines that are killed."""

import asyncio
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import aiohttp
import pytest

from gatekeeper.embedded import free_port
from gatekeeper.gate import Gate, connect
from gatekeeper.ledger import connect as connect_ledger
from gatekeeper.merchant import sales, stock
from gatekeeper.merchant.stock import Wanted
from gatekeeper.settings import Settings
from gatekeeper.stack import Stack
from tests.integration.door import FrontDoor
from workers.reconcile import Report, reconcile

SALE = "rush"


@pytest.fixture
def stack() -> Iterator[Stack]:
    """A stack of its own whose front door has two processes."""
    folder = Path(tempfile.mkdtemp(prefix="gatekeeper-rush-"))
    folder.chmod(0o755)
    stack = Stack(folder, free_port(), workers=2, settings=Settings())
    stack.start()
    yield stack
    stack.stop()
    rmtree(folder)


async def opened(stack: Stack, units: int) -> None:
    gate = Gate(connect(stack.redis_url, timeout=5))
    with connect_ledger(stack.database_url) as ledger:
        await sales.create(gate, ledger, SALE, sales.Terms(), backlog_limit=10_000, actor="test")
        await stock.state(gate, ledger, SALE, lambda _: [Wanted("A", units)], actor="test")
    await gate.control(SALE, "open", actor="test")
    await gate.redis.aclose()


async def compared(stack: Stack) -> tuple[Report, int, int]:
    """Reconcile; returns the report, the ledger's reservations and Redis's."""
    gate = Gate(connect(stack.redis_url, timeout=5))
    with connect_ledger(stack.database_url) as ledger:
        report = await reconcile(gate, ledger, SALE, keep=1000)
        row = ledger.execute("SELECT count(*) FROM reservations WHERE sale = %s", [SALE]).fetchone()
    held = (await gate.counters(SALE))["A"].held
    await gate.redis.aclose()
    return report, row[0] if row else 0, held


async def buy(session: aiohttp.ClientSession, url: str, shop_key: str, buyer: int) -> tuple[int, str]:
    """Returns the status and, if there is one, the reservation's id or the problem's code."""
    body = {"buyer": f"buyer-{buyer}", "items": [{"sku": "A", "quantity": 1}]}
    headers = {"Authorization": f"Bearer {shop_key}", "Idempotency-Key": f"order-{buyer}"}
    async with session.post(f"{url}/v1/sales/{SALE}/reservations", json=body, headers=headers) as answer:
        content = await answer.json(content_type=None)
        return answer.status, content.get("id") or content["code"]


async def decided(session: aiohttp.ClientSession, url: str, shop_key: str, buyer: int, *, by: float) -> tuple[int, str]:
    """Buy, asking again with the same key while the answer is 503, as every client of the gate does."""
    while (answer := await buy(session, url, shop_key, buyer))[0] == 503:
        assert time.monotonic() < by, "not decided in time"
        await asyncio.sleep(0.02)
    return answer


def test_a_thousand_buyers_at_two_front_doors_get_exactly_the_fifty_units_there_are(stack: Stack) -> None:
    async def story() -> None:
        await opened(stack, 50)
        urls = [(stack.url, stack.description()["shop_key"]), (f"http://127.0.0.1:{other.port}", "shop")]
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=200)) as session:
            answers = await asyncio.gather(*(buy(session, *urls[i % 2], i) for i in range(1000)))
            assert Counter(status for status, _ in answers) == {201: 50, 409: 950}
            winners = [i for i, (status, _) in enumerate(answers) if status == 201]
            # The same keys at the other front door: the same reservations, and nothing sold twice.
            again = await asyncio.gather(*(buy(session, *urls[(i + 1) % 2], i) for i in winners))
        assert again == [(200, answers[i][1]) for i in winners]
        report, rows, held = await compared(stack)
        assert (rows, held, report.drift) == (50, 50, [])

    other = FrontDoor(stack.redis_url).wait()
    try:
        asyncio.run(story())
    finally:
        other.stop()


def test_redis_gone_is_503_within_a_second_and_service_again_within_five_after_it_is_back(stack: Stack) -> None:
    async def story() -> None:
        await opened(stack, 50)
        key = stack.description()["shop_key"]
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            before = [await buy(session, stack.url, key, i) for i in range(20)]
            valkey = stack.engines["valkey"]
            os.kill(valkey.process.pid, signal.SIGKILL)
            valkey.process.wait()
            for i in range(10):
                started = time.monotonic()
                assert (await buy(session, stack.url, key, 100 + i))[0] == 503
                assert time.monotonic() - started < 1
            stack.look_after()  # starts it again
            back = time.monotonic()
            assert (await decided(session, stack.url, key, 200, by=back + 5))[0] == 201
            # What was acknowledged is still there, and asking again finds it, whichever process answers.
            after = [await decided(session, stack.url, key, i, by=back + 10) for i in range(20)]
            assert after == [(200, id) for _, id in before]
        report, rows, held = await compared(stack)
        assert (rows, held, report.drift) == (21, 21, [])

    asyncio.run(story())


def test_behind_a_redis_that_hangs_every_buyer_is_answered_within_a_second(stack: Stack) -> None:
    async def story() -> None:
        await opened(stack, 500)
        key = stack.description()["shop_key"]
        valkey = stack.engines["valkey"]

        async def timed(session: aiohttp.ClientSession, buyer: int) -> tuple[int, float]:
            started = time.monotonic()
            return (await buy(session, stack.url, key, buyer))[0], time.monotonic() - started

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=100)) as session:
            os.kill(valkey.process.pid, signal.SIGSTOP)
            try:
                answers = await asyncio.gather(*(timed(session, i) for i in range(100)))
            finally:
                os.kill(valkey.process.pid, signal.SIGCONT)
            assert {status for status, _ in answers} == {503}
            assert max(seconds for _, seconds in answers) < 1.5  # 0.7 s of patience, and a hundred new connections
            # Nobody knew; asking again with the same key finds out, and nothing was done twice.
            until = time.monotonic() + 5
            again = await asyncio.gather(*(decided(session, stack.url, key, i, by=until) for i in range(100)))
        assert {status for status, _ in again} <= {200, 201}
        report, rows, held = await compared(stack)
        assert (rows, held, report.drift) == (100, 100, [])

    asyncio.run(story())


def test_metrics_of_all_processes_of_a_front_door_are_one(stack: Stack) -> None:
    async def story() -> None:
        await opened(stack, 50)
        for i in range(40):  # a connection each, so that both processes answer some
            async with aiohttp.ClientSession() as session:
                await buy(session, stack.url, stack.description()["shop_key"], i)
        await asyncio.sleep(0.2)  # a process hands over what it counted every 50 ms
        async with aiohttp.ClientSession() as session, session.get(f"{stack.url}/metrics") as answer:
            assert 'gatekeeper_purchases_total{outcome="admitted"} 40.0' in await answer.text()

    asyncio.run(story())
