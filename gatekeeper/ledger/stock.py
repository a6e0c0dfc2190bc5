"""Stock as the merchant authorises it (capacity) and as Redis is given it (numbered grants)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from gatekeeper.ledger import cursors
from gatekeeper.ledger.connection import Connection

Line = tuple[str, int, bool]
"""(SKU, units to add or, negative, to take back, tracked)."""


@dataclass(frozen=True, slots=True)
class StockRow:
    """One SKU of the inventory, units."""

    sku: str
    tracked: bool
    paused: bool
    capacity: int
    """Authorised, less what a pending grant is taking back."""
    granted: int
    held: int
    sold: int
    known: bool
    """A grant has told Redis of it."""


@dataclass(frozen=True, slots=True)
class PendingGrant:
    """A grant of which the ledger does not know yet whether Redis has applied it."""

    number: int
    actor: str
    reason: str
    lines: list[Line]


@contextmanager
def locked(connection: Connection, sale: str) -> Iterator[None]:
    """Hold the sale's stock for one merchant's command at a time; a crash ends the lock with the connection."""
    connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 1))", [sale])
    try:
        yield
    finally:
        if not connection.broken:
            connection.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 1))", [sale])


def rows(connection: Connection, sale: str) -> dict[str, StockRow]:
    """Return the sale's whole inventory by SKU."""
    query = """
        SELECT i.sku, i.tracked, i.paused, i.capacity + COALESCE(p.taken, 0), i.granted, i.held, i.sold,
               EXISTS (SELECT FROM grants AS g WHERE g.sale = i.sale AND g.sku = i.sku AND g.applied)
          FROM inventory AS i
          LEFT JOIN (SELECT sku, sum(delta)::int AS taken FROM grants
                      WHERE sale = %(sale)s AND NOT applied AND delta < 0 GROUP BY sku) AS p USING (sku)
         WHERE i.sale = %(sale)s ORDER BY i.sku COLLATE "C"
    """
    return {row[0]: StockRow(*row) for row in connection.execute(query, {"sale": sale})}


def names(connection: Connection, sale: str, after: str, limit: int) -> list[str]:
    """Return the ≤ `limit` SKUs that follow `after` in byte order."""
    query = 'SELECT sku FROM inventory WHERE sale = %s AND sku COLLATE "C" > %s ORDER BY sku COLLATE "C" LIMIT %s'
    return [sku for (sku,) in connection.execute(query, [sale, after, limit])]


def pending(connection: Connection, sale: str) -> list[PendingGrant]:
    """Return the grants whose event has not reached the ledger, in order of their numbers."""
    query = """
        SELECT g.number, min(g.actor), min(g.reason),
               array_agg(g.sku ORDER BY g.sku), array_agg(g.delta ORDER BY g.sku), array_agg(i.tracked ORDER BY g.sku)
          FROM grants AS g JOIN inventory AS i USING (sale, sku)
         WHERE g.sale = %s AND NOT g.applied GROUP BY g.number ORDER BY g.number
    """
    found = connection.execute(query, [sale])
    return [
        PendingGrant(number, actor, reason, list(zip(*columns, strict=True)))
        for number, actor, reason, *columns in found
    ]


def record(connection: Connection, sale: str, lines: Sequence[Line], *, actor: str, reason: str) -> int:
    """Write the next numbered grant, raising capacity by what it adds; returns its number.

    What it takes back lowers capacity only when Redis's event says that it did. Call under `locked`.
    """
    skus, deltas, tracked = map(list, zip(*lines, strict=True))
    with connection.transaction():
        cursors.lock(connection, sale)
        connection.execute(_RAISE, [sale, skus, deltas, tracked])
        query = "SELECT COALESCE(max(number), 0) + 1 FROM grants WHERE sale = %s"
        (number,) = connection.execute(query, [sale]).fetchone() or (1,)
        connection.execute(_RECORD, [sale, number, actor, reason, skus, deltas])
    return int(number)


def drop(connection: Connection, sale: str, number: int, skus: Sequence[str]) -> None:
    """Take back lines of a grant that Redis refused, and the capacity that they had raised."""
    with connection.transaction():
        cursors.lock(connection, sale)
        connection.execute(_DROP, {"sale": sale, "number": number, "skus": list(skus)})


def drop_overtaken(connection: Connection, sale: str) -> None:
    """Take back grants that can never be applied, because a later one was; with the capacity that they had raised."""
    query = """
        SELECT number, array_agg(sku) FROM grants WHERE sale = %(sale)s AND NOT applied
           AND number < (SELECT max(number) FROM grants WHERE sale = %(sale)s AND applied) GROUP BY number
    """
    for number, skus in connection.execute(query, {"sale": sale}).fetchall():
        drop(connection, sale, number, skus)


_RAISE = """
INSERT INTO inventory AS i (sale, sku, tracked, capacity)
SELECT %s, d.sku, d.tracked, greatest(d.delta, 0)
  FROM unnest(%s::text[], %s::int[], %s::boolean[]) AS d (sku, delta, tracked)
    ON CONFLICT (sale, sku) DO UPDATE SET capacity = i.capacity + EXCLUDED.capacity
"""

_RECORD = """
INSERT INTO grants (sale, number, actor, reason, sku, delta)
SELECT %s, %s, %s, %s, d.sku, d.delta FROM unnest(%s::text[], %s::int[]) AS d (sku, delta)
"""

_DROP = """
WITH dropped AS (
    DELETE FROM grants WHERE sale = %(sale)s AND number = %(number)s AND sku = ANY(%(skus)s) AND NOT applied
    RETURNING sku, delta
)
UPDATE inventory AS i SET capacity = i.capacity - greatest(d.delta, 0)
  FROM dropped AS d WHERE i.sale = %(sale)s AND i.sku = d.sku
"""
