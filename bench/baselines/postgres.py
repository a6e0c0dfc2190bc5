"""A shop's tables, and a pool of connections to them. The pool is ours: psycopg's is a package of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from bench.baselines.shop import Shop

CONNECTIONS = 4
"""One hot row serves one writer at a time: of 2 to 32 on 2 cores, 2 to 4 sell most, and 32 sell half of that."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS items (
    sku         text PRIMARY KEY,
    inventory   integer NOT NULL,
    version     bigint NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS orders (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sku             text NOT NULL,
    quantity        integer NOT NULL,
    buyer           text NOT NULL,
    idempotency_key text NOT NULL,
    status          text NOT NULL DEFAULT 'reserved',
    created_at      timestamptz NOT NULL DEFAULT now()
);
"""
INSERT = "INSERT INTO orders (sku, quantity, buyer, idempotency_key) VALUES (%s, %s, %s, %s)"


class PostgresShop(Shop):
    """A shop whose stock and orders are in Postgres."""

    connections = CONNECTIONS
    isolation: psycopg.IsolationLevel | None = None

    async def open(self) -> None:
        """Open the whole pool."""
        self._free: asyncio.LifoQueue[psycopg.AsyncConnection] = asyncio.LifoQueue()
        for _ in range(self.connections):
            connection = await psycopg.AsyncConnection.connect(self.database_url, autocommit=True)
            await connection.set_isolation_level(self.isolation)
            self._free.put_nowait(connection)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[psycopg.AsyncConnection]:
        """Lend a connection in autocommit mode; whoever comes first is served first."""
        connection = await self._free.get()
        try:
            yield connection
        finally:
            self._free.put_nowait(connection)


def stock(database_url: str, units_by_sku: dict[str, int]) -> None:
    """Make the tables hold exactly this stock and no order."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(SCHEMA)
        connection.execute("TRUNCATE items, orders")
        connection.execute(
            "INSERT INTO items (sku, inventory) SELECT * FROM unnest(%s::text[], %s::integer[])",
            [list(units_by_sku), list(units_by_sku.values())],
        )
        connection.execute("VACUUM ANALYZE items, orders")


def orders(database_url: str) -> int:
    """How many orders there are."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT count(*) FROM orders").fetchone()
    return int(row[0]) if row else 0
