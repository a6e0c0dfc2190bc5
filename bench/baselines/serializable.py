"""Seed 001: a SERIALIZABLE transaction around SELECT … FOR UPDATE, run again when Postgres says so."""

import asyncio
import random

import psycopg
from psycopg import errors

from bench.baselines.postgres import INSERT, PostgresShop
from bench.baselines.shop import Answer, Order, run

ATTEMPTS = 10
PAUSE = 0.002
"""Seconds before the second attempt, doubled for each further one, and spread at random."""


class Serializable(PostgresShop):
    """Whoever waited for the row meanwhile cannot be serialised after its new version, and tries again."""

    isolation = psycopg.IsolationLevel.SERIALIZABLE
    connections = 2  # more of them abort each other

    async def sell(self, order: Order) -> Answer:
        for attempt in range(ATTEMPTS):
            try:
                return await self._once(order)
            except (errors.SerializationFailure, errors.DeadlockDetected):
                self.counts.aborts += 1
                # Not while holding a connection: others may use it.
                await asyncio.sleep(random.uniform(0, PAUSE * 2**attempt))
        return Answer.BUSY

    async def _once(self, order: Order) -> Answer:
        async with self.connection() as connection, connection.transaction():
            look = "SELECT inventory FROM items WHERE sku = %s FOR UPDATE"
            row = await (await connection.execute(look, [order.sku])).fetchone()
            if row is None or row[0] < order.quantity:
                return Answer.SOLD_OUT
            take = "UPDATE items SET inventory = inventory - %s WHERE sku = %s"
            await connection.execute(take, [order.quantity, order.sku])
            await connection.execute(INSERT, [order.sku, order.quantity, order.buyer, order.key])
        return Answer.SOLD


if __name__ == "__main__":
    run(Serializable)
