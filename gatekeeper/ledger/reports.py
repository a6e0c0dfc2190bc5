"""What the CLI shows of the ledger. Reading only."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row

from gatekeeper.ledger import cursors
from gatekeeper.ledger.connection import Connection


@dataclass(frozen=True, slots=True)
class Overview:
    """A sale's books at a glance."""

    cursor: str
    reservations: int
    oldest_hold: datetime | None
    checkpoint: str
    """The last comparison with Redis: "equal" or "drift", where and when; "" before the first."""
    quarantined: int


def overview(connection: Connection, sale: str) -> Overview:
    """Return the sale's books at a glance."""
    query = """
        SELECT (SELECT count(*) FROM reservations WHERE sale = %(sale)s),
               (SELECT min(created_at) FROM reservations WHERE sale = %(sale)s AND state = 'held'),
               (SELECT CASE WHEN drift = '[]' THEN 'equal' ELSE 'drift' END
                       || format(' at %%s-%%s, %%s', epoch, n, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SSZ'))
                  FROM checkpoints WHERE sale = %(sale)s ORDER BY epoch DESC, n DESC LIMIT 1),
               (SELECT count(*) FROM quarantine WHERE sale = %(sale)s)
    """
    count, oldest, checkpoint, quarantined = connection.execute(query, {"sale": sale}).fetchone() or (0, None, None, 0)
    return Overview(str(cursors.read(connection, sale) or "-"), count, oldest, checkpoint or "", quarantined)


_RESERVATIONS = """
SELECT r.id, r.buyer, r.state, r.late, r.payment, r.reference, r.idempotency_key, r.created_at, r.expires_at,
       (SELECT jsonb_agg(jsonb_build_object('sku', i.sku, 'quantity', i.quantity) ORDER BY i.sku)
          FROM reservation_items AS i WHERE i.sale = r.sale AND i.id = r.id) AS items
  FROM reservations AS r
 WHERE r.sale = %(sale)s AND (%(state)s::text IS NULL OR r.state = %(state)s)
   AND (%(buyer)s::text IS NULL OR r.buyer = %(buyer)s) AND (%(id)s::text IS NULL OR r.id = %(id)s)
 ORDER BY r.created_at, r.id LIMIT %(limit)s
"""


def reservations(
    connection: Connection,
    sale: str,
    *,
    state: str | None = None,
    buyer: str | None = None,
    id: str | None = None,
    limit: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield reservations with their items, oldest first, streamed from the server."""
    given = {"sale": sale, "state": state, "buyer": buyer, "id": id, "limit": limit}
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
