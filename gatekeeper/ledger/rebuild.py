"""A sale as Redis should hold it, read from the ledger. Call with the cursor locked."""

from collections.abc import Iterator

from gatekeeper.ledger import stock
from gatekeeper.ledger.connection import Connection
from gatekeeper.model import Counters, Refund, Reservation, unpack_items

_MS = "(extract(epoch FROM {}) * 1000)::bigint"

_RESERVATIONS = f"""
SELECT r.id, r.state, r.late, r.payment, {_MS.format("r.created_at")}, {_MS.format("r.expires_at")},
       r.buyer, r.idempotency_key, r.reference, r.fingerprint,
       (SELECT array_agg(ARRAY[p.payment, p.state, p.refund] ORDER BY p.payment COLLATE "C")
          FROM payments AS p WHERE p.sale = r.sale AND p.id = r.id AND p.state <> 'sold')
  FROM reservations AS r WHERE r.sale = %s
"""

_FIELDS = f"""
SELECT s.state, COALESCE({_MS.format("s.opens_at")}, 0), COALESCE({_MS.format("s.closes_at")}, 0),
       s.per_buyer, s.hold_ms, c.units, c.epoch,
       COALESCE((SELECT max(number) FROM grants AS g WHERE g.sale = s.sale AND g.applied), 0)
  FROM sales AS s JOIN cursors AS c USING (sale) WHERE s.sale = %s
"""


def counters(connection: Connection, sale: str) -> dict[str, Counters]:
    """Return the counters of every SKU that Redis was ever granted."""
    return {
        sku: Counters(
            row.granted - row.held - row.sold if row.tracked else 0,
            row.held,
            row.sold,
            row.granted,
            row.tracked,
            row.paused,
        )
        for sku, row in stock.rows(connection, sale).items()
        if row.known
    }


def reservations(connection: Connection, sale: str, size: int) -> Iterator[list[Reservation]]:
    """Yield every reservation of a sale in lists of ≤ `size`, streamed from the server."""
    with connection.cursor("rebuild") as cursor:
        cursor.itersize = size
        cursor.execute(_RESERVATIONS, [sale])
        while rows := cursor.fetchmany(size):
            yield [_reservation(sale, *row) for row in rows]


def reservation(connection: Connection, sale: str, id: str) -> Reservation | None:
    """Return one reservation as Redis should hold it; None when the ledger has none of that id."""
    row = connection.execute(f"{_RESERVATIONS} AND r.id = %s", [sale, id]).fetchone()
    return _reservation(sale, *row) if row else None


def _reservation(
    sale: str,
    id: str,
    state: str,
    late: bool,
    payment: str,
    created_ms: int,
    expires_ms: int,
    buyer: str,
    key: str,
    reference: str,
    items: str,
    refunds: list[list[str]] | None,
) -> Reservation:
    unsold = tuple(Refund(*refund) for refund in refunds or ())
    times = created_ms, expires_ms
    return Reservation(sale, id, state, late, payment, *times, buyer, key, reference, unpack_items(items), unsold)


def buyers(connection: Connection, sale: str) -> list[tuple[str, int]]:
    """Return the units that each buyer holds or has bought."""
    query = """
        SELECT r.buyer, sum(i.quantity)::bigint FROM reservations AS r JOIN reservation_items AS i USING (sale, id)
         WHERE r.sale = %s AND r.state IN ('held', 'sold') GROUP BY r.buyer
    """
    return [(buyer, int(units)) for buyer, units in connection.execute(query, [sale])]


def fields(connection: Connection, sale: str) -> dict[str, str | int]:
    """Return the fields of the sale's hash that the ledger knows. Times in ms."""
    names = "state", "opens_at", "closes_at", "per_buyer", "hold_ms", "buyer_units", "epoch", "granted"
    row = connection.execute(_FIELDS, [sale]).fetchone()
    return dict(zip(names, row, strict=True)) if row else {}
