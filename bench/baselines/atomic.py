"""Seed 004, solution 3: one UPDATE that takes a unit only where there is one, with the order in the same statement."""

from bench.baselines.postgres import PostgresShop
from bench.baselines.shop import Answer, Order, run

# The document inserts the order in a second statement; in one it is a round trip and a commit less, and no crash
# between them can lose a unit.
TAKE = """
    WITH taken AS (
        UPDATE items SET inventory = inventory - %(quantity)s
         WHERE sku = %(sku)s AND inventory >= %(quantity)s RETURNING sku
    )
    INSERT INTO orders (sku, quantity, buyer, idempotency_key)
    SELECT sku, %(quantity)s, %(buyer)s, %(key)s FROM taken
"""


class Atomic(PostgresShop):
    """The best that one row in Postgres can do: its lock is held for one statement and one commit."""

    async def sell(self, order: Order) -> Answer:
        values = {"sku": order.sku, "quantity": order.quantity, "buyer": order.buyer, "key": order.key}
        async with self.connection() as connection:
            done = await connection.execute(TAKE, values)
        return Answer.SOLD if done.rowcount else Answer.SOLD_OUT


if __name__ == "__main__":
    run(Atomic)
