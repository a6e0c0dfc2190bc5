"""Checkpoints on schedule: exact while the sale runs, bounded, only after events, and drift never stays unseen."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gatekeeper import keys
from gatekeeper.ledger import checkpoints
from gatekeeper.merchant import stock
from gatekeeper.merchant.stock import Wanted
from gatekeeper.model import Purchase
from gatekeeper.outcomes import Outcome
from gatekeeper.settings import Settings
from tests.integration.world import KEEP, SALE, World
from workers.checkpoints import Checkpoints
from workers.connections import Connections
from workers.drain import drain
from workers.expire import sweep

SECONDS = float(os.environ.get("GATEKEEPER_LOAD_SECONDS", "5"))
"""How long the tests under load run."""


@asynccontextmanager
async def scheduled(w: World, every: float = 0.001) -> AsyncIterator[Checkpoints]:
    settings = Settings(redis_url=w.redis_url, database_url=w.database_url, checkpoint_seconds=every)
    connections = Connections(settings)
    try:
        yield Checkpoints(connections)
    finally:
        await connections.close()


def results(w: World) -> list[str]:
    return [found.result for found in reversed(checkpoints.history(w.ledger, SALE, 10_000))]


async def go(w: World, part: Checkpoints) -> None:
    """One round of the schedule, then the drain up to it."""
    await w.drain()
    await part.round()
    await w.drain()


def test_a_checkpoint_comes_after_events_and_not_without_them(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        async with scheduled(w) as part:
            for bought, expected in ((5, 1), (0, 1), (0, 1), (5, 2)):
                await w.buy(expected * 10, bought)
                await go(w, part)
                assert results(w) == ["equal"] * expected

    world(story)


def test_a_sale_is_not_checked_more_often_than_the_schedule_says(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        async with scheduled(w, every=0.5) as part:
            started = time.monotonic()
            for i in range(60):
                await w.buy(i, 1)
                await go(w, part)
                await asyncio.sleep(0.02)
            assert len(results(w)) <= (time.monotonic() - started) / 0.5 + 1
            assert results(w)

    world(story)


def test_what_changed_comes_first_and_the_rotation_sees_every_sku_once(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        wanted = [Wanted("A", 100), *(Wanted(f"S{i:05}", 1) for i in range(1200))]
        await stock.state(w.gate, w.ledger, SALE, lambda _: wanted, actor="test")
        async with scheduled(w) as part:
            await go(w, part)  # all changed, so all are compared
            w.ledger.execute("DELETE FROM checkpoints")
            w.ledger.execute("UPDATE schedules SET sku = ''")
            await w.buy(0, 1)
            rounds = 0
            while w.one("SELECT sku FROM schedules") != ("",) or not rounds:
                await go(w, part)
                rounds += 1
                assert rounds < 10
            assert w.one("SELECT sum(skus) FROM checkpoints")[0] >= 1201
            seen = len(results(w))
            await go(w, part)
            assert len(results(w)) == seen  # the rotation is through, and nothing happened since

    world(story)


def test_a_sku_that_only_one_side_knows_is_found_by_the_rotation(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.gate.redis.hset(keys.stock(SALE), "planted", "7 0 0 7 1 0")
        await w.gate.redis.zadd(keys.skus(SALE), {"planted": 0})
        async with scheduled(w) as part:
            await go(w, part)
        assert results(w) == ["drift"]
        assert [entry["sku"] for entry in checkpoints.history(w.ledger, SALE, 1)[0].drift] == ["planted"]

    world(story)


async def load(w: World, until: float, admitted: list[int]) -> None:
    """Buy, pay, cancel and expire, about 1,000 purchases a second and more."""
    number = 0
    while time.monotonic() < until:
        batch = [Purchase.of(SALE, f"b{number + i}", "k", [("A", 1), ("B", 2)]) for i in range(50)]
        decisions = await w.gate.admit(SALE, batch)
        number += len(batch)
        mine = [d.reservation.id for d in decisions if d.outcome is Outcome.ADMITTED and d.reservation]
        admitted[0] += len(mine)
        for i, id in enumerate(mine):
            if i % 3 == 0:
                await w.gate.confirm(SALE, id, f"p-{id}", actor="shop")
            elif i % 3 == 1:
                await w.gate.release(SALE, id, "cancelled", actor="shop")
        await asyncio.sleep(0)


async def drains(w: World, until: float) -> None:
    while time.monotonic() < until:
        await drain(w.gate, w.ledger, SALE, keep=KEEP)
        await asyncio.sleep(0.01)


async def grants(w: World, until: float) -> None:
    """Raise and lower what the merchant authorises."""
    turn = 0
    while time.monotonic() < until:
        turn += 1
        units = 2_000_000 + 1000 * (turn % 3)
        wanted = [Wanted("A", units), Wanted("B", 2 * units)]
        await stock.state(w.gate, w.ledger, SALE, lambda _, wanted=wanted: wanted, actor="merchant")
        await asyncio.sleep(0.05)


async def sweeps(w: World, until: float) -> None:
    while time.monotonic() < until:
        await w.overdue_some(20)
        await sweep(w.gate, SALE)
        await asyncio.sleep(0.1)


async def checks(part: Checkpoints, until: float) -> None:
    while time.monotonic() < until:
        await part.round()
        await asyncio.sleep(0.05)


async def under_load(w: World, seconds: float, *more) -> list[int]:
    """Everything at once for a while; returns [admitted]. `more`: coroutine functions of (until)."""
    await w.open(units=2_000_000)
    await stock.state(w.gate, w.ledger, SALE, lambda _: [Wanted("A", 2_000_000), Wanted("B", 4_000_000)], actor="test")
    admitted, until = [0], time.monotonic() + seconds
    async with scheduled(w, every=0.2) as part:
        tasks = [load(w, until, admitted), drains(w, until), grants(w, until), sweeps(w, until), checks(part, until)]
        await asyncio.gather(*tasks, *(task(until) for task in more))
        while (await w.drain()).events:
            await asyncio.sleep(0)
    return admitted


def test_no_false_alarm_at_full_load_with_grants_raised_and_lowered_meanwhile(world) -> None:
    async def story(w: World) -> None:
        started = time.monotonic()
        admitted = await under_load(w, SECONDS)
        rate = admitted[0] / (time.monotonic() - started)
        found = results(w)
        print(f"{len(found)} checkpoints, {admitted[0]} admitted, {rate:.0f}/s")
        assert len(found) >= SECONDS and set(found) == {"equal"}
        assert w.one("SELECT count(*) FROM quarantine") == (0,)
        assert w.one("SELECT count(*) FILTER (WHERE state = 'expired') > 0 FROM reservations") == (True,)

    world(story)


def test_a_counter_changed_by_hand_is_found_at_the_next_checkpoint_under_load(world) -> None:
    async def story(w: World) -> None:
        changed: list[float] = []

        async def plant(until: float) -> None:
            await asyncio.sleep(1)
            await w.gate.redis.eval(PLANT, 1, keys.stock(SALE))
            changed.append(time.time())

        await under_load(w, 3, plant)
        drifted = [found for found in reversed(checkpoints.history(w.ledger, SALE, 1000)) if found.result == "drift"]
        assert {entry["sku"] for entry in drifted[0].drift} == {"B"}
        assert drifted[0].at_ms / 1000 - changed[0] < 1
        assert (await w.gate.counters(SALE))["B"].paused  # Redis shows more than the ledger

    world(story)


PLANT = """
local a, h, s, g, t, p = string.match(redis.call('HGET', KEYS[1], 'B'), '(%d+) (%d+) (%d+) (%d+) (%d) (%d)')
redis.call('HSET', KEYS[1], 'B', string.format('%d %d %d %d %d %d', a + 3, h, s, g + 3, t, p))
"""


def test_a_ledger_row_changed_by_hand_is_found_at_the_next_checkpoint_under_load(world) -> None:
    async def story(w: World) -> None:
        changed: list[float] = []

        async def plant(until: float) -> None:
            await asyncio.sleep(1)
            w.ledger.execute("UPDATE inventory SET sold = sold + 1 WHERE sku = 'B'")
            changed.append(time.time())

        await under_load(w, 3, plant)
        drifted = [found for found in reversed(checkpoints.history(w.ledger, SALE, 1000)) if found.result == "drift"]
        assert {entry["sku"] for entry in drifted[0].drift} == {"B"}
        assert drifted[0].at_ms / 1000 - changed[0] < 1

    world(story)


def test_a_hundred_thousand_skus_are_covered_by_the_schedule_within_a_minute(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        wanted = [Wanted("A", 100), *(Wanted(f"S{i:06}", 1) for i in range(99_999))]
        await stock.state(w.gate, w.ledger, SALE, lambda _: wanted, actor="test")
        while (await w.drain()).events:
            pass
        w.ledger.execute("UPDATE schedules SET epoch = c.epoch, n = c.n, sku = '' FROM cursors AS c")
        await w.buy(0, 1)
        async with scheduled(w, every=5.0) as part:
            rounds, started = 0, time.monotonic()
            while w.one("SELECT sku FROM schedules") != ("",) or not rounds:
                w.ledger.execute("UPDATE schedules SET claimed_at = claimed_at - interval '5 s'")
                await go(w, part)
                rounds += 1
            busy = time.monotonic() - started
        assert w.one("SELECT sum(skus) >= 100000 FROM checkpoints") == (True,)
        assert rounds * 5.0 <= 65  # what the schedule takes, one step every 5 s
        assert busy < 20  # what of it is work

    world(story)
