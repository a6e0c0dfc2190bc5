"""The workers against real engines: what was acknowledged reaches the ledger exactly once, whatever dies."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from gatekeeper import keys
from gatekeeper.ledger import cursors
from gatekeeper.ledger import stock as ledger_stock
from gatekeeper.merchant import stock
from gatekeeper.merchant.stock import Wanted
from gatekeeper.model import Counters, Position
from tests.integration.world import KEEP, SALE, World
from workers.controller import prove
from workers.drain import Stop
from workers.reconcile import reconcile


def test_a_drain_writes_every_reservation_once_and_a_second_one_nothing(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        assert await w.buy(0, 120) == 100
        first, second = await w.drain(), await w.drain()
        assert (first.stop, first.events) == (Stop.EMPTY, 103)  # create, grant, open and the 100
        assert (second.stop, second.events, second.position) == (Stop.EMPTY, 0, first.position)
        row = w.one("SELECT buyer, idempotency_key, fingerprint, state FROM reservations WHERE buyer = 'buyer-7'")
        assert row == ("buyer-7", "key-7", "A 1", "held")
        await w.assert_exactly_once(100)

    world(story)


def test_drained_events_are_trimmed_but_for_the_newest(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        for i in range(10):
            await w.buy(i * 10, 10)
        await w.drain(keep=5)
        # Redis trims whole nodes of its radix tree: never more than asked, maybe less.
        assert 5 <= await w.gate.redis.xlen(keys.outbox(SALE)) <= 103
        assert await w.gate.last_position(SALE) == cursors.read(w.ledger, SALE)

    world(story)


KILLED = """
import asyncio, os, signal, sys
from gatekeeper.gate import Gate, connect
from gatekeeper.ledger import connect as connect_ledger, cursors
from workers import drain

redis_url, database_url, point = sys.argv[1:]
die = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
if point == "between apply and commit":
    move = cursors.move
    cursors.move = lambda *args: (move(*args), die())
elif point == "between commit and trim":
    Gate.applied = die
elif point == "before apply":
    drain.apply = die
asyncio.run(drain.drain(Gate(connect(redis_url, timeout=2)), connect_ledger(database_url), "jackets", keep=0))
"""


@pytest.mark.parametrize("point", ["before apply", "between apply and commit", "between commit and trim"])
def test_a_drain_killed_at_any_point_leaves_each_event_applied_once(world, point: str) -> None:
    async def story(w: World) -> None:
        await w.open()
        for start in (0, 30):
            assert await w.buy(start, 30) == 30
            command = [sys.executable, "-c", KILLED, w.redis_url, w.database_url, point]
            assert subprocess.run(command, check=False).returncode == -9
        await w.drain()
        await w.assert_exactly_once(60)

    world(story)


def test_two_drains_at_once_apply_each_event_once(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.buy(0, 80)
        code = textwrap.dedent(KILLED)
        command = [sys.executable, "-c", code, w.redis_url, w.database_url, "never"]
        both = [subprocess.Popen(command) for _ in range(2)]
        assert [process.wait() for process in both] == [0, 0]
        await w.assert_exactly_once(80)

    world(story)


STOPPED = """
import os, signal, sys
from gatekeeper.ledger import connect, cursors
ledger = connect(sys.argv[1])
with ledger.transaction():
    cursors.lock(ledger, "jackets")
    print("locked", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    cursors.move(ledger, "jackets", cursors.read(ledger, "jackets").next)
"""


def test_a_stopped_worker_blocks_the_drain_for_six_seconds_at_most_and_its_late_write_has_no_effect(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.buy(0, 10)
        command = [sys.executable, "-c", STOPPED, w.database_url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as stopped:
            assert stopped.stdout and stopped.stdout.readline() == b"locked\n"
            started = time.monotonic()
            assert (await w.drain()).stop is Stop.BUSY
            while (await w.drain()).stop is Stop.BUSY:
                await asyncio.sleep(0.05)
            assert time.monotonic() - started <= 6
            position = cursors.read(w.ledger, SALE)
            stopped.send_signal(signal.SIGCONT)
            assert stopped.wait(10) != 0  # Postgres had ended its connection
        assert cursors.read(w.ledger, SALE) == position
        await w.assert_exactly_once(10)

    world(story)


def test_no_event_can_make_the_ledger_oversell(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.buy(0, 99)
        await w.gate.redis.xadd(keys.outbox(SALE), {"event": f"admit\n1\n{'b' * 32}\n2\nbob\nk\n\nA 2\n"}, id="1-*")
        await w.buy(99, 1)
        await w.drain()
        assert "never_oversold" in w.one("SELECT reason FROM quarantine")[0]
        assert w.inventory() == (100, 100, 100, 0)
        assert w.one("SELECT count(*) FROM reservations") == (100,)

    world(story)


def test_a_lost_event_fences_the_sale_and_nothing_after_it_is_applied(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.buy(0, 5)
        entries = await w.gate.redis.xrange(keys.outbox(SALE))
        await w.gate.redis.xdel(keys.outbox(SALE), entries[4][0])
        stops = [(await w.drain()).stop, (await w.drain()).stop]
        assert stops == [Stop.FENCED, Stop.FENCED]
        mark = (await w.gate.marks([SALE]))[SALE]
        assert mark and "the outbox goes on at 1-5, the ledger is at 1-3" in mark.fence
        assert w.one("SELECT count(*) FROM reservations") == (1,)

    world(story)


def test_an_event_that_cannot_be_applied_is_quarantined_its_sku_paused_and_the_rest_flows(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.buy(0, 3)
        await w.gate.redis.xadd(keys.outbox(SALE), {"event": f"admit\n1\n{'a' * 32}\n2\nbob\nk\n\nA"}, id="1-*")
        await w.buy(3, 3)
        done = await w.drain()
        assert done.stop is Stop.EMPTY
        assert w.one("SELECT reservation, skus, paused FROM quarantine") == ("a" * 32, ["A"], True)
        assert w.one("SELECT count(*) FROM reservations") == (6,)
        assert (await w.gate.counters(SALE))["A"].paused

    world(story)


@pytest.mark.parametrize(
    "event",
    [
        f"admit\n1\n{'a' * 32}\n2\nbo\x11b\nk\n\nA 1\n", f"admit\n1\n{'a' * 32}\n2\nb\tob\nk\n\nA 1\n",
        f"admit\n1\n{'a' * 32}\n2\nbo\0b\nk\n\nA 1\n", f"admit\n1\n{'a' * 32}\n2\nbob\nk\n\nA {10**20}\n",
        f"admit\n{10**20}\n{'a' * 32}\n2\nbob\nk\n\nA 1\n", f"checkpoint\n1\n{10**20}\nA 1 0 0 {10**20}\n",
    ],
    ids=["control", "tab", "nul", "quantity", "time", "checkpoint"],
)  # fmt: skip
def test_damage_that_postgres_cannot_hold_is_quarantined_and_the_rest_flows(world, event: str) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.buy(0, 3)
        await w.gate.redis.xadd(keys.outbox(SALE), {"event": event}, id="1-*")
        await w.buy(3, 3)
        assert (await w.drain()).stop is Stop.EMPTY
        assert w.one("SELECT count(*) FROM quarantine") == (1,)
        assert w.one("SELECT count(*) FROM reservations") == (6,)

    world(story)


def test_a_reservation_that_the_ledger_has_already_is_quarantined_not_ignored(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.buy(0, 2)
        twice = (await w.gate.redis.xrange(keys.outbox(SALE)))[-1][1]
        await w.gate.redis.xadd(keys.outbox(SALE), twice, id="1-*")
        await w.drain()
        assert "duplicate key" in w.one("SELECT reason FROM quarantine")[0]
        assert w.inventory() == (100, 100, 2, 0)

    world(story)


def test_drift_is_found_at_the_checkpoint_and_surplus_stops_the_sku(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.buy(0, 10)
        await w.gate.redis.hset(keys.stock(SALE), "A", "93 10 0 103 1 0")
        report = await reconcile(w.gate, w.ledger, SALE, keep=KEEP)
        assert report.drift == [
            {
                "sku": "A",
                "redis": {"available": 93, "held": 10, "sold": 0, "granted": 103},
                "ledger": {"available": 90, "held": 10, "sold": 0, "granted": 100},
                "unproven": False,
            }
        ]
        assert (await w.gate.counters(SALE))["A"].paused

    world(story)


def test_a_sale_fenced_by_a_script_error_is_proven_and_sells_on_in_the_next_epoch(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.buy(0, 10)
        await w.gate.control(SALE, "fence", actor="test", reason="a test")
        assert await prove(w.gate, w.ledger, SALE, await w.gate.replication(), keep=KEEP) == ""
        assert await w.buy(10, 10) == 10
        assert await w.gate.last_position(SALE) == Position(2, 10)
        await w.drain()
        await w.assert_exactly_once(20)

    world(story)


def test_a_sale_whose_counters_do_not_match_the_ledger_stays_fenced(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.buy(0, 10)
        await w.gate.redis.hset(keys.stock(SALE), "A", "91 9 0 100 1 0")
        await w.gate.control(SALE, "fence", actor="test", reason="a test")
        reason = await prove(w.gate, w.ledger, SALE, await w.gate.replication(), keep=KEEP)
        assert reason == "Redis and the ledger count differently: A"
        mark = (await w.gate.marks([SALE]))[SALE]
        assert mark and mark.fence == reason

    world(story)


def test_a_grant_that_died_before_redis_is_completed_by_repeating(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        with ledger_stock.locked(w.ledger, SALE):
            ledger_stock.record(w.ledger, SALE, [("A", 20, True)], actor="test", reason="")
        stated = await stock.state(w.gate, w.ledger, SALE, lambda _: [Wanted("A", 120)], actor="test")
        assert stated.changes[0].unchanged
        await w.drain()
        assert w.inventory() == (120, 120, 0, 0)
        assert (await w.gate.counters(SALE))["A"] == Counters(120, 0, 0, 120)

    world(story)


def test_stock_is_lowered_only_by_what_is_available(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.buy(0, 30)
        refused = await stock.state(w.gate, w.ledger, SALE, lambda _: [Wanted("A", 20)], actor="test")
        assert [(r.sku, r.lacking, r.available, r.held) for r in refused.refused] == [("A", 10, 70, 30)]
        lowered = await stock.state(w.gate, w.ledger, SALE, lambda _: [Wanted("A", 30)], actor="test")
        assert lowered.refused == []
        await w.drain()
        assert w.inventory() == (30, 30, 30, 0)
        assert (await w.gate.counters(SALE))["A"] == Counters(0, 30, 0, 30)

    world(story)


def test_the_child_processes_need_no_setting_but_the_environment() -> None:
    for module in ("workers.controller", "workers.ticker", "workers.queue"):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GATEKEEPER_")}
        run = subprocess.run(
            [sys.executable, "-m", module], env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 1
        assert "GATEKEEPER_REDIS_URL is not set" in run.stderr
