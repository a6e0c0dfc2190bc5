"""What is measured without HTTP and without other processes than the engines: the drain's speed, Redis's memory."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import md5
from typing import Any

from bench.contestants import fresh_engines
from bench.gate import open_sale
from bench.target import sku_names
from gatekeeper import keys
from gatekeeper.gate import Gate, connect
from gatekeeper.ledger import migrate
from gatekeeper.model import Purchase
from gatekeeper.settings import Settings
from workers.connections import Connections
from workers.drain import drain

BATCH = 256
IN_FLIGHT = 4
DRAIN_WITHIN = 120.0
(SKU,) = sku_names(1)
TABLES = ("reservations", "reservation_items", "movements")
"""Where an admitted purchase of one SKU leaves a row each."""


@asynccontextmanager
async def _world() -> AsyncIterator[Connections]:
    """Engines, a migrated ledger and loaded scripts, and nobody else at work."""
    with fresh_engines() as engines:
        migrate(engines.postgres.url)
        connections = Connections(Settings(redis_url=engines.valkey.url, database_url=engines.postgres.url))
        try:
            await connections.gate.load_scripts()
            yield connections
        finally:
            await connections.close()


def purchase(sale: str, number: int) -> Purchase:
    """One unit, with a key as long as a UUID."""
    key = md5(b"%d" % number, usedforsecurity=False).hexdigest()
    key = "-".join((key[:8], key[8:12], key[12:16], key[16:20], key[20:]))
    return Purchase.of(sale, f"buyer-{number:09}", key, [(SKU, 1)])


async def fill(gate: Gate, sale: str, count: int) -> None:
    """Let `count` buyers buy one unit each."""
    batches = iter([range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)])

    async def buy() -> None:
        for numbers in batches:
            await gate.admit(sale, [purchase(sale, number) for number in numbers])

    await asyncio.gather(*(buy() for _ in range(IN_FLIGHT)))


async def _drained(connections: Connections, sale: str, keep: int) -> tuple[int, float]:
    """Drain as a worker does; returns events applied, and seconds."""
    started = time.perf_counter()
    with connections.ledger() as ledger:
        done = await drain(connections.gate, ledger, sale, keep=keep, budget=DRAIN_WITHIN)
    return done.events, time.perf_counter() - started


async def ledger(count: int) -> dict[str, Any]:
    """How fast one worker writes: an outbox full of admitted purchases, drained by one process."""
    async with _world() as connections:
        await open_sale(connections, "warm", 1, count)
        await fill(connections.gate, "warm", min(count, 5_000))
        await _drained(connections, "warm", keep=100_000)
        await open_sale(connections, "drained", 1, count)
        await fill(connections.gate, "drained", count)
        events, seconds = await _drained(connections, "drained", keep=100_000)
        rows = 0
        with connections.ledger() as ledger:
            for table in TABLES:
                found = ledger.execute(f"SELECT count(*) FROM {table} WHERE sale = 'drained'").fetchone()
                rows += int(found[0]) if found else 0
    return {
        "purchases": count,
        "seconds": seconds,
        "purchases_per_s": events / seconds,
        "rows_per_s": rows / seconds,
        "rows_per_purchase": rows / count,
    }


async def memory(holds: int, settled: int) -> dict[str, Any]:
    """Redis's bytes per hold, per settled reservation and per event, by INFO before and after."""
    async with _world() as connections:
        gate = connections.gate
        await open_sale(connections, "held", 1, holds)
        before = await _used(gate)
        await fill(gate, "held", holds)
        events = await _usage(gate, keys.outbox("held"))
        await _drained(connections, "held", keep=1)
        hold = (await _used(gate) - before) / holds
        usage = await _usage(gate, keys.reservations("held"), keys.due("held"))
        await open_sale(connections, "settled", 1, settled)
        before = await _used(gate)
        await fill(gate, "settled", settled)
        await _confirm(connections.settings.redis_url, settled)
        await _drained(connections, "settled", keep=1)
        done = (await _used(gate) - before) / settled
    return {
        "holds": holds,
        "bytes_per_hold": hold,
        "bytes_per_hold_by_memory_usage": usage / holds,
        "settled": settled,
        "bytes_per_settled": done,
        "bytes_per_event_until_trimmed": events / holds,
    }


async def _used(gate: Gate) -> int:
    """Redis's used memory once it has caught up with freeing."""
    await gate.redis.memory_purge()
    await asyncio.sleep(0.3)
    info = await gate.redis.info("memory")
    return int(info["used_memory"])


async def _usage(gate: Gate, *names: str) -> int:
    """Bytes of these keys, every element looked at."""
    sizes = [await gate.redis.memory_usage(name, samples=0) for name in names]
    return sum(size or 0 for size in sizes)


async def _confirm(url: str, count: int) -> None:
    """Pay for every hold of the sale `settled`."""
    gate, numbers = Gate(connect(url, timeout=10, connections=64)), iter(range(count))

    async def pay() -> None:
        for number in numbers:
            await gate.confirm("settled", purchase("settled", number).id, f"payment-{number:09}", actor="bench")

    try:
        await asyncio.gather(*(pay() for _ in range(64)))
    finally:
        await gate.redis.aclose()
