"""Seed 000: look whether there is stock, then decrement it. Every buyer between the two looks at the same stock."""

from bench.baselines.postgres import INSERT, PostgresShop
from bench.baselines.shop import Answer, Order, run


class Naive(PostgresShop):
    """Three statements that know nothing of each other."""

    connections = 16  # as behind a few servers; fewer sell no more, they only race less

    async def sell(self, order: Order) -> Answer:
        async with self.connection() as connection:
            found = await connection.execute("SELECT inventory FROM items WHERE sku = %s", [order.sku])
            row = await found.fetchone()
            if row is None or row[0] < order.quantity:
                return Answer.SOLD_OUT
            take = "UPDATE items SET inventory = inventory - %s WHERE sku = %s"
            await connection.execute(take, [order.quantity, order.sku])
            await connection.execute(INSERT, [order.sku, order.quantity, order.buyer, order.key])
        return Answer.SOLD


if __name__ == "__main__":
    run(Naive)
