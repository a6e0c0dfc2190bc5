"""Comparisons of Redis's own counters with the ledger's at the same position, as the drain found them."""

from typing import Any

from gatekeeper.ledger.connection import Connection
from gatekeeper.model import Position


def drift(connection: Connection, sale: str, positions: list[Position]) -> list[dict[str, Any]]:
    """Return what differed at these checkpoints: {sku, redis: {…}, ledger: {…}, unproven} each."""
    query = """
        SELECT d FROM checkpoints AS c, jsonb_array_elements(c.drift) AS d
         WHERE c.sale = %s AND (c.epoch, c.n) IN (SELECT * FROM unnest(%s::bigint[], %s::bigint[]))
         ORDER BY d ->> 'sku'
    """
    found = connection.execute(query, [sale, [p.epoch for p in positions], [p.n for p in positions]])
    return [entry for (entry,) in found]
