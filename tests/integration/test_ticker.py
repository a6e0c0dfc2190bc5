"""The ticker looks at what is hot: ten thousand sales of which ten sell cost as the ten."""

import asyncio
import time

from rq import Queue

from gatekeeper import keys
from gatekeeper.ledger import connect as connect_ledger
from gatekeeper.settings import Settings
from workers.connections import Connections
from workers.queue import queue
from workers.ticker import MAX_JOBS, SALES_PER_JOB, SALES_PER_STEP, Ticker

SALES = 10_000


def fill(database_url: str, sales: int) -> None:
    with connect_ledger(database_url) as ledger:
        ledger.execute(
            "INSERT INTO sales (sale, state, per_buyer, hold_ms) "
            "SELECT 'sale-' || lpad(i::text, 5, '0'), 'open', 0, 1000 FROM generate_series(1, %s) AS i",
            [sales],
        )
        ledger.execute("INSERT INTO cursors (sale, epoch, n) SELECT sale, 1, 0 FROM sales")


async def events_in(connections: Connections, *sales: str) -> None:
    for sale in sales:
        await connections.gate.redis.xadd(keys.outbox(sale), {"event": "?"}, id="1-1")


def jobs_of(jobs: Queue) -> list[str]:
    return sorted(sale for job in jobs.jobs for sale in job.args[0])


def test_ten_hot_sales_among_ten_thousand_are_rung_and_nothing_else_is_touched(
    redis_url: str, database_url: str
) -> None:
    async def story() -> None:
        fill(database_url, SALES)
        connections = Connections(Settings(redis_url=redis_url, database_url=database_url))
        jobs = queue(connections.settings)
        ticker = Ticker(connections, jobs)
        hot = [f"sale-{i:05}" for i in range(1000, 1010)]
        await events_in(connections, *hot)
        await connections.gate.ring(hot)
        ticker._next_step = time.monotonic() + 60  # no rotation in this round
        commands = (await connections.gate.redis.info("stats"))["total_commands_processed"]
        await ticker.round()
        used = (await connections.gate.redis.info("stats"))["total_commands_processed"] - commands
        assert jobs_of(jobs) == hot and jobs.count == 1
        assert used < 40  # whatever the number of sales
        jobs.connection.close()
        await connections.close()

    asyncio.run(story())


def test_the_rotation_finds_every_sale_whose_hint_was_lost(redis_url: str, database_url: str) -> None:
    async def story() -> None:
        fill(database_url, 3 * SALES_PER_STEP)
        connections = Connections(Settings(redis_url=redis_url, database_url=database_url))
        jobs = queue(connections.settings)
        ticker = Ticker(connections, jobs)
        lost = ["sale-00007", "sale-00350", "sale-00600"]
        await events_in(connections, *lost)
        for _ in range(4):
            ticker._next_step = 0
            await ticker.round()
        assert jobs_of(jobs) == lost
        jobs.connection.close()
        await connections.close()

    asyncio.run(story())


def test_with_no_worker_jobs_do_not_pile_up_and_no_sale_is_forgotten(redis_url: str, database_url: str) -> None:
    async def story() -> None:
        connections = Connections(Settings(redis_url=redis_url, database_url=database_url))
        jobs = queue(connections.settings)
        ticker = Ticker(connections, jobs)
        ticker._next_step = time.monotonic() + 60
        for i in range(MAX_JOBS + 10):
            await connections.gate.ring([f"sale-{i}-{n}" for n in range(SALES_PER_JOB)])
            await ticker.round()
        assert jobs.count <= MAX_JOBS + 1
        waiting = await connections.gate.redis.smembers(keys.DOORBELL)
        assert len(waiting) + len(jobs_of(jobs)) == (MAX_JOBS + 10) * SALES_PER_JOB
        jobs.connection.close()
        await connections.close()

    asyncio.run(story())
