"""Seed 004, solution 2: read a version, and write only if it is still that one; three attempts, 10 ms apart."""

import asyncio

from bench.baselines.postgres import PostgresShop
from bench.baselines.shop import Answer, Order, run

ATTEMPTS = 3
PAUSE = 0.01
"""Seconds between attempts."""

# Stock and order in one statement: in two, a crash between them loses a unit.
TAKE = """
    WITH taken AS (
        UPDATE items SET inventory = inventory - %(quantity)s, version = version + 1
         WHERE sku = %(sku)s AND inventory >= %(quantity)s AND version = %(version)s RETURNING sku
    )
    INSERT INTO orders (sku, quantity, buyer, idempotency_key)
    SELECT sku, %(quantity)s, %(buyer)s, %(key)s FROM taken
"""


class Optimistic(PostgresShop):
    """Nobody waits for a lock; of all who read the same version one wins."""

    connections = 2  # more of them defeat each other

    async def sell(self, order: Order) -> Answer:
        values = {"sku": order.sku, "quantity": order.quantity, "buyer": order.buyer, "key": order.key}
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(PAUSE)
            async with self.connection() as connection:
                look = "SELECT inventory, version FROM items WHERE sku = %s"
                row = await (await connection.execute(look, [order.sku])).fetchone()
                if row is None or row[0] < order.quantity:
                    return Answer.SOLD_OUT
                if (await connection.execute(TAKE, {**values, "version": row[1]})).rowcount:
                    return Answer.SOLD
            self.counts.aborts += 1
        return Answer.BUSY


if __name__ == "__main__":
    run(Optimistic)
