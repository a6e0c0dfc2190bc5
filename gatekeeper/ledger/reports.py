"""What the CLI shows of the ledger. Reading only."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from psycopg.rows import dict_row

from gatekeeper.ledger.connection import Connection


@dataclass(frozen=True, slots=True)
class Overview:
    """A sale's books at a glance."""

    cursor: str
    """"" before the first event was applied, and when the sale is archived."""
    quarantined: int
    refunds_due: int


def overview(connection: Connection, sale: str) -> Overview:
    """Return the sale's books at a glance."""
    query = """
        SELECT CASE WHEN c.n >= 0 THEN c.epoch || '-' || c.n END,
               (SELECT count(*) FROM quarantine WHERE sale = %(sale)s),
               (SELECT count(*) FROM payments WHERE sale = %(sale)s AND state = 'refund_due')
          FROM sales LEFT JOIN cursors AS c USING (sale) WHERE sale = %(sale)s
    """
    cursor, quarantined, due = connection.execute(query, {"sale": sale}).fetchone() or (None, 0, 0)
    return Overview(cursor or "", quarantined, due)


def refunds_due(connection: Connection, sale: str) -> int:
    """Return how many payments of a sale are due back."""
    query = "SELECT count(*) FROM payments WHERE sale = %s AND state = 'refund_due'"
    row = connection.execute(query, [sale]).fetchone()
    return int(row[0]) if row else 0


def all_refunds_due(connection: Connection) -> int:
    """Return how many payments are due back, of all sales."""
    row = connection.execute("SELECT count(*) FROM payments WHERE state = 'refund_due'").fetchone()
    return int(row[0]) if row else 0


def quarantined(connection: Connection) -> int:
    """Return how many events are in quarantine, of all sales."""
    row = connection.execute("SELECT count(*) FROM quarantine").fetchone()
    return int(row[0]) if row else 0


def refunds(connection: Connection, sale: str, *, due_only: bool) -> list[dict[str, Any]]:
    """Return the payments that became no sale, oldest first; those that are due back, or all."""
    query = """
        SELECT p.id AS reservation, r.buyer, r.reference, p.payment, p.state, p.refund, p.created_at, p.changed_at,
               r.state AS reservation_state
          FROM payments AS p LEFT JOIN reservations AS r USING (sale, id)
         WHERE p.sale = %(sale)s AND p.state <> 'sold' AND (NOT %(due)s OR p.state = 'refund_due')
         ORDER BY p.created_at, p.id, p.payment
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, {"sale": sale, "due": due_only}).fetchall()


_RESERVATIONS = """
SELECT r.id, r.buyer, r.state, r.late, r.payment, r.reference, r.idempotency_key, r.created_at, r.expires_at,
       (SELECT jsonb_agg(jsonb_build_object('sku', i.sku, 'quantity', i.quantity) ORDER BY i.sku)
          FROM reservation_items AS i WHERE i.sale = r.sale AND i.id = r.id) AS items,
       (SELECT jsonb_agg(jsonb_build_object('payment', p.payment, 'state', p.state, 'refund', p.refund)
                         ORDER BY p.payment)
          FROM payments AS p WHERE p.sale = r.sale AND p.id = r.id AND p.state <> 'sold') AS refunds
  FROM reservations AS r
 WHERE r.sale = %(sale)s AND (%(state)s::text IS NULL OR r.state = %(state)s)
   AND (%(buyer)s::text IS NULL OR r.buyer = %(buyer)s) AND (%(id)s::text IS NULL OR r.id = %(id)s)
   AND (%(stale)s::float IS NULL OR r.state = 'held' AND r.expires_at <= now() - make_interval(secs => %(stale)s))
   AND (%(older)s::float IS NULL OR r.created_at <= now() - make_interval(secs => %(older)s))
 ORDER BY r.created_at, r.id LIMIT %(limit)s
"""


def reservations(
    connection: Connection,
    sale: str,
    *,
    state: str | None = None,
    buyer: str | None = None,
    id: str | None = None,
    stale: float | None = None,
    older: float | None = None,
    limit: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield reservations with their items, oldest first, streamed from the server.

    `stale`: only holds whose deadline passed so many seconds ago. `older`: only those made so many seconds ago.
    """
    given = {"sale": sale, "state": state, "buyer": buyer, "id": id, "stale": stale, "older": older, "limit": limit}
    with connection.transaction(), connection.cursor("reservations", row_factory=dict_row) as cursor:
        cursor.itersize = 2000
        cursor.execute(_RESERVATIONS, given)
        yield from cursor


def exists(connection: Connection, sale: str) -> bool:
    """Whether the ledger has, or had, a sale of that name."""
    return connection.execute("SELECT FROM sales WHERE sale = %s", [sale]).fetchone() is not None


def server(connection: Connection) -> dict[str, Any]:
    """Return Postgres's version and whether a commit is on disk."""
    query = """
        SELECT current_setting('server_version') AS version, current_setting('fsync') AS fsync,
               current_setting('synchronous_commit') AS synchronous_commit
    """
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query).fetchone() or {}
