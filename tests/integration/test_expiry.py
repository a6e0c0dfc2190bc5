"""Expiry: every overdue unit is buyable again soon after its deadline, and sales without due holds cost nothing."""

import asyncio
import os
import signal
import subprocess
import sys
import time

from gatekeeper import keys
from gatekeeper.gate import Gate
from gatekeeper.model import Counters, Purchase
from tests.integration.world import SALE, World
from workers.expire import NAME, RETRY_MS, Expiry, sweep

HOLDS = 100_000
AGAIN = 2.0
"""Seconds after the deadline within which units must be buyable again."""


DYING = """
import os, signal
from gatekeeper.gate import Gate
from workers import expire

calls, whole = [], Gate.expire

async def third_time_deadly(*args):
    swept = await whole(*args)
    calls.append(swept)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return swept

Gate.expire = third_time_deadly
expire.run(expire._round, every=0.1)
"""


async def fill(w: World, holds: int) -> None:
    for start in range(0, holds, 1000):
        batch = range(start, min(start + 1000, holds))
        await w.gate.admit(SALE, [Purchase.of(SALE, f"b{i}", "k", [("A", 1)]) for i in batch])


async def due_at(gate: Gate, deadline_ms: int) -> None:
    """Move the deadline of every hold there is."""
    ids = await gate.redis.zrange(keys.due(SALE), 0, -1)
    for start in range(0, len(ids), 5000):
        await gate.redis.zadd(keys.due(SALE), dict.fromkeys(ids[start : start + 5000], deadline_ms))


def test_a_hundred_thousand_holds_due_at_once_are_buyable_again_within_two_seconds(world) -> None:
    async def story(w: World) -> None:
        await w.open(units=HOLDS)
        await fill(w, HOLDS)
        assert (await w.gate.counters(SALE))["A"] == Counters(0, HOLDS, 0, HOLDS)
        seconds, micros = await w.gate.redis.time()
        deadline = seconds * 1000 + micros // 1000 + 3000
        await due_at(w.gate, deadline)
        await w.gate.remind({SALE: deadline})
        environment = os.environ | {"GATEKEEPER_REDIS_URL": w.redis_url, "GATEKEEPER_DATABASE_URL": w.database_url}
        process = subprocess.Popen([sys.executable, "-m", "workers.expire"], env=environment)
        try:
            while (await w.gate.counters(SALE))["A"].available < HOLDS:
                seconds, micros = await w.gate.redis.time()
                late = seconds + micros / 1e6 - deadline / 1000
                assert late < AGAIN, f"{(await w.gate.counters(SALE))['A']} {late:.2f} s after the deadline"
                await asyncio.sleep(0.02)
        finally:
            process.terminate()
            assert process.wait(10) == 0
        assert (await w.gate.counters(SALE))["A"] == Counters(HOLDS, 0, 0, HOLDS)
        assert await w.gate.redis.zcard(keys.due(SALE)) == 0

    world(story)


def test_ten_stale_holds_of_one_sku_return_ten_units_to_both_sides(world) -> None:
    """What the runbook's `UPDATE … FROM` gave back for ten holds was one unit."""

    async def story(w: World) -> None:
        await w.open(units=10)
        assert await w.buy(0, 10) == 10
        await w.overdue()
        assert await sweep(w.gate, SALE) == 10
        await w.drain()
        assert (await w.gate.counters(SALE))["A"] == Counters(10, 0, 0, 10)
        assert w.inventory() == (10, 10, 0, 0)
        assert w.one("SELECT count(*) FROM reservations WHERE state = 'expired'") == (10,)

    world(story)


def test_holds_that_fell_due_while_nobody_swept_are_swept_at_once(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.buy(0, 50)
        await w.overdue()  # and no hint: its front door died, so did the worker
        await Expiry(w.gate).round()
        assert (await w.gate.counters(SALE))["A"].available == 100

    world(story)


def test_a_sweeper_killed_in_the_middle_leaves_nothing_half_done(world) -> None:
    async def story(w: World) -> None:
        await w.open(units=3000)
        await fill(w, 3000)
        await w.overdue()
        environment = os.environ | {"GATEKEEPER_REDIS_URL": w.redis_url, "GATEKEEPER_DATABASE_URL": w.database_url}
        command = [sys.executable, "-c", DYING]
        await w.gate.remind({SALE: 1})
        killed = await asyncio.to_thread(subprocess.run, command, env=environment, check=False)
        assert killed.returncode == -signal.SIGKILL
        assert (await w.gate.counters(SALE))["A"] == Counters(1500, 1500, 0, 3000)
        await Expiry(w.gate).round()
        assert (await w.gate.counters(SALE))["A"] == Counters(3000, 0, 0, 3000)
        await w.drain()
        assert w.one("SELECT count(*) FROM reservations WHERE state = 'expired'") == (3000,)
        assert w.one("SELECT held, granted FROM inventory") == (0, 3000)

    world(story)


def test_only_sales_with_a_due_hold_are_looked_at(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.gate.remind({f"sale-{i}": 2**50 for i in range(10_000)})
        expiry = Expiry(w.gate)
        expiry._next_step = time.monotonic() + 60  # no rotation in this round
        commands = (await w.gate.redis.info("stats"))["total_commands_processed"]
        await expiry.round()
        assert (await w.gate.redis.info("stats"))["total_commands_processed"] - commands < 10

    world(story)


def test_a_fenced_sale_waits_and_holds_up_no_other(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.buy(0, 10)
        await w.overdue()
        await w.gate.control(SALE, "fence", actor="test", reason="a test")
        await w.gate.publish_catalogue([SALE])
        await w.gate.remind({SALE: 1, "unknown": 2})
        await Expiry(w.gate).round()
        assert await w.gate.redis.zcard(keys.due(SALE)) == 10
        now, due = await w.gate.due(10)
        again = await w.gate.redis.zscore(keys.DEADLINES, SALE)
        assert due == [] and now < again <= now + RETRY_MS

    world(story)


def test_expiry_leaves_word_of_being_alive(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        assert await w.gate.heartbeat(NAME) == 0
        await Expiry(w.gate).round()
        now, _ = await w.gate.due(0)
        assert now - 5000 < await w.gate.heartbeat(NAME) <= now

    world(story)
