"""The worker's processes against engines that are killed and come back."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import pytest

from gatekeeper.embedded import free_port, start_postgres, start_valkey
from gatekeeper.errors import GateError, SaleFenced, UnknownSale
from gatekeeper.gate import Gate, connect
from gatekeeper.ledger import connect as connect_ledger
from gatekeeper.ledger import migrate
from gatekeeper.merchant import sales, stock
from gatekeeper.merchant.stock import Wanted
from gatekeeper.model import Purchase
from gatekeeper.outcomes import Outcome

SALE = "boots"


class Stack:
    """Engines of this test's own, and one `gatekeeper worker`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.valkey = start_valkey(folder / "valkey")
        self.postgres = start_postgres(folder / "postgres")
        migrate(self.postgres.url)
        self.workers = [self.worker()]

    def worker(self, metrics_port: int = 0) -> "subprocess.Popen[bytes]":
        urls = {"GATEKEEPER_REDIS_URL": self.valkey.url, "GATEKEEPER_DATABASE_URL": self.postgres.url}
        return subprocess.Popen(
            [sys.executable, "-m", "gatekeeper", "worker", "--metrics-port", str(metrics_port)], env=os.environ | urls
        )

    def gate(self) -> Gate:
        return Gate(connect(self.valkey.url, timeout=1))

    def stop(self) -> None:
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            worker.wait()
        self.valkey.stop()
        self.postgres.stop()

    def restart_valkey(self) -> None:
        os.kill(self.valkey.process.pid, signal.SIGKILL)
        self.valkey.process.wait()
        self.valkey = start_valkey(self.folder / "valkey", port=self.valkey.port)

    def restart_postgres(self) -> None:
        os.kill(self.postgres.process.pid, signal.SIGKILL)
        self.postgres.process.wait()
        self.postgres = start_postgres(self.folder / "postgres", port=self.postgres.port)

    def ledger_rows(self) -> int:
        with connect_ledger(self.postgres.url) as ledger:
            return ledger.execute("SELECT count(*) FROM reservations WHERE sale = %s", [SALE]).fetchone()[0]


@pytest.fixture
def stack() -> Iterator[Stack]:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    stack = Stack(folder)
    try:
        yield stack
    finally:
        stack.stop()
        rmtree(folder)


async def eventually(check, *, within: float) -> float:
    """Wait until `check` is true; returns how long it took, in seconds."""
    started = time.monotonic()
    while not check():
        assert time.monotonic() - started < within, f"not within {within} s"
        await asyncio.sleep(0.02)
    return time.monotonic() - started


async def open_sale(stack: Stack, gate: Gate) -> None:
    while not await gate.scripts_loaded():  # the controller loads them
        await asyncio.sleep(0.05)
    with connect_ledger(stack.postgres.url) as ledger:
        await sales.create(gate, ledger, SALE, sales.Terms(), backlog_limit=10_000, actor="test")
        await stock.state(gate, ledger, SALE, lambda _: [Wanted("A", 1000)], actor="test")
    await gate.control(SALE, "open", actor="test")


async def buy(gate: Gate, first: int, count: int) -> None:
    purchases = [Purchase.of(SALE, f"buyer-{i}", f"key-{i}", [("A", 1)]) for i in range(first, first + count)]
    decisions = await gate.admit(SALE, purchases)
    assert {decision.outcome for decision in decisions} == {Outcome.ADMITTED}


async def buy_as_soon_as_answered(gate: Gate, first: int, count: int, *, within: float) -> float:
    started = time.monotonic()
    while True:
        try:
            await buy(gate, first, count)
            return time.monotonic() - started
        except GateError:
            assert time.monotonic() - started < within
            await asyncio.sleep(0.02)


def test_events_reach_the_ledger_by_doorbell_and_without_it(stack: Stack) -> None:
    async def story() -> None:
        gate = stack.gate()
        await open_sale(stack, gate)
        await buy(gate, 0, 50)
        await gate.ring([SALE])
        await eventually(lambda: stack.ledger_rows() == 50, within=2)
        await buy(gate, 50, 50)  # the hint got lost: the rotation finds the sale
        await eventually(lambda: stack.ledger_rows() == 100, within=5)
        await gate.redis.aclose()

    asyncio.run(story())


def test_redis_killed_and_restarted_is_proven_and_sells_on_within_5_s_losing_nothing(stack: Stack) -> None:
    async def story() -> None:
        gate = stack.gate()
        await open_sale(stack, gate)
        await buy(gate, 0, 100)
        stack.restart_valkey()
        with pytest.raises(GateError):
            await buy(gate, 100, 1)  # refused while unsure, at the very least without its scripts
        assert await buy_as_soon_as_answered(gate, 100, 100, within=5) < 5
        await gate.ring([SALE])
        await eventually(lambda: stack.ledger_rows() == 200, within=5)
        counters = (await gate.counters(SALE))["A"]
        assert (counters.available, counters.held) == (800, 200)
        await gate.redis.aclose()

    asyncio.run(story())


def test_scripts_flushed_are_loaded_again_without_a_new_epoch(stack: Stack) -> None:
    async def story() -> None:
        gate = stack.gate()
        await open_sale(stack, gate)
        await gate.redis.script_flush()
        assert await buy_as_soon_as_answered(gate, 0, 10, within=5) < 5
        last = await gate.last_position(SALE)
        assert last and last.epoch == 1
        await gate.redis.aclose()

    asyncio.run(story())


def test_after_a_flushall_every_sale_is_refused_and_none_is_said_not_to_exist(stack: Stack) -> None:
    async def story() -> None:
        gate = stack.gate()
        await open_sale(stack, gate)
        await buy(gate, 0, 10)
        await gate.redis.flushall()
        with connect_ledger(stack.postgres.url) as ledger:
            await sales.create(gate, ledger, "gloves", sales.Terms(), backlog_limit=10, actor="test")
        for _ in range(20):
            with pytest.raises(SaleFenced):
                await buy(gate, 10, 1)
            await asyncio.sleep(0.05)
        assert await gate.catalogue_published()
        with pytest.raises(UnknownSale):
            await gate.availability("hats")
        await gate.redis.aclose()

    asyncio.run(story())


def test_postgres_killed_and_restarted_gets_what_was_sold_meanwhile(stack: Stack) -> None:
    async def story() -> None:
        gate = stack.gate()
        await open_sale(stack, gate)
        await buy(gate, 0, 50)
        await gate.ring([SALE])
        await eventually(lambda: stack.ledger_rows() == 50, within=3)
        os.kill(stack.postgres.process.pid, signal.SIGKILL)
        await buy(gate, 50, 50)
        await gate.ring([SALE])
        await asyncio.sleep(1)
        await buy(gate, 100, 50)
        stack.restart_postgres()
        await eventually(lambda: stack.ledger_rows() == 150, within=10)
        await gate.redis.aclose()

    asyncio.run(story())


def test_the_metrics_of_a_workers_processes_are_one(stack: Stack) -> None:
    async def story() -> None:
        gate = stack.gate()
        port = free_port()
        stack.workers.append(stack.worker(port))
        await open_sale(stack, gate)
        await buy(gate, 0, 30)
        await gate.ring([SALE])
        await eventually(lambda: stack.ledger_rows() == 30, within=5)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        assert "gatekeeper_ledger_events_total" in text
        assert "gatekeeper_ticker_last_tick_timestamp_seconds" in text
        assert "gatekeeper_fenced_sales 0.0" in text
        await gate.redis.aclose()

    asyncio.run(story())


def test_two_workers_and_a_killed_one_apply_everything_once(stack: Stack) -> None:
    async def story() -> None:
        gate = stack.gate()
        stack.workers.append(stack.worker())
        await open_sale(stack, gate)
        for start in range(0, 500, 50):
            await buy(gate, start, 50)
            await gate.ring([SALE])
            if start == 200:
                stack.workers[0].kill()
        await eventually(lambda: stack.ledger_rows() == 500, within=10)
        with connect_ledger(stack.postgres.url) as ledger:
            assert ledger.execute("SELECT held, granted FROM inventory").fetchone() == (500, 1000)
            assert ledger.execute("SELECT count(*) FROM quarantine").fetchone() == (0,)
        await gate.redis.aclose()

    asyncio.run(story())
