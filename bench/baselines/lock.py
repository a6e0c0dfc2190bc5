"""Seed 004, solution 1: a lock in Redis per item, then SELECT … FOR UPDATE NOWAIT.

The document refuses whoever finds the lock taken. Among hundreds of buyers that sells about ten units a second, because
the holder's own steps queue behind the refusals; so here buyers try again for a while, as lock libraries do.
"""

import asyncio
import random
import secrets

import redis.asyncio as aioredis
from psycopg import errors

from bench.baselines.postgres import INSERT, PostgresShop
from bench.baselines.shop import Answer, Order, run

LOCK_MS = 5000
"""After this long the lock of a process that died is free again."""
ATTEMPTS = 10
PAUSE = 0.2
"""Seconds between attempts, give or take half."""
# The document reads the lock and then deletes it; between the two it may be another's.
RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Lock(PostgresShop):
    """Both locks, as the document recommends."""

    async def open(self) -> None:
        await super().open()
        pool = aioredis.BlockingConnectionPool.from_url(self.redis_url, max_connections=64)
        self._redis = aioredis.Redis.from_pool(pool)
        self._release = self._redis.register_script(RELEASE)

    async def sell(self, order: Order) -> Answer:
        name, token = f"purchase:{order.sku}", secrets.token_hex(8)
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(PAUSE * random.uniform(0.5, 1.5))
            if await self._redis.set(name, token, px=LOCK_MS, nx=True):
                break
        else:
            return Answer.BUSY
        try:
            return await self._locked(order)
        except errors.LockNotAvailable:
            self.counts.aborts += 1
            return Answer.BUSY
        finally:
            await self._release(keys=[name], args=[token])

    async def _locked(self, order: Order) -> Answer:
        async with self.connection() as connection, connection.transaction():
            look = "SELECT inventory, version FROM items WHERE sku = %s FOR UPDATE NOWAIT"
            row = await (await connection.execute(look, [order.sku])).fetchone()
            if row is None or row[0] < order.quantity:
                return Answer.SOLD_OUT
            take = """
                UPDATE items SET inventory = inventory - %s, version = version + 1
                 WHERE sku = %s AND inventory >= %s AND version = %s
            """
            await connection.execute(take, [order.quantity, order.sku, order.quantity, row[1]])
            await connection.execute(INSERT, [order.sku, order.quantity, order.buyer, order.key])
        return Answer.SOLD


if __name__ == "__main__":
    run(Lock)
