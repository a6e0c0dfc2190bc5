"""Comparisons of Redis's own counters with the ledger's at the same position, as the drain found them."""

from dataclasses import dataclass
from typing import Any

from gatekeeper.ledger.connection import Connection
from gatekeeper.model import Position

ALL_BUYERS = ""
"""Stands for a SKU where the units of all buyers together are compared; no SKU can be so named."""
_ESCALATES = 0.05
"""More of a SKU's granted units than this in surplus is no slip."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a checkpoint showed."""

    position: Position
    at_ms: int
    skus: int
    """How many were compared."""
    drift: list[dict[str, Any]]
    """{sku (ALL_BUYERS: of all together), redis: {…}, ledger: {…}, unproven: an event in quarantine names it} each."""

    def __str__(self) -> str:
        """One line for Redis, where front doors read it."""
        return f"{self.result} {self.position} {self.at_ms} {self.skus}"

    @property
    def result(self) -> str:
        """equal, unproven (only where quarantine explains it), or drift."""
        if not self.drift:
            return "equal"
        return "unproven" if all(entry["unproven"] for entry in self.drift) else "drift"

    @property
    def surplus(self) -> dict[str, bool]:
        """SKUs of which Redis showed more available than the ledger, and whether by so much that it escalates.

        What an event in quarantine explains is paused already, and does not escalate.
        """
        return {
            entry["sku"]: more > _ESCALATES * entry["ledger"]["granted"] and not entry["unproven"]
            for entry in self.drift
            if entry["sku"] and (more := entry["redis"]["available"] - entry["ledger"]["available"]) > 0
        }


def drift(connection: Connection, sale: str, positions: list[Position]) -> list[dict[str, Any]]:
    """Return what differed at these checkpoints, as in `Comparison.drift`."""
    query = """
        SELECT d FROM checkpoints AS c, jsonb_array_elements(c.drift) AS d
         WHERE c.sale = %s AND (c.epoch, c.n) IN (SELECT * FROM unnest(%s::bigint[], %s::bigint[]))
         ORDER BY d ->> 'sku'
    """
    found = connection.execute(query, [sale, [p.epoch for p in positions], [p.n for p in positions]])
    return [entry for (entry,) in found]


def history(connection: Connection, sale: str, limit: int) -> list[Comparison]:
    """Return the newest comparisons, newest first."""
    query = f"{_SELECT} WHERE sale = %s ORDER BY epoch DESC, n DESC LIMIT %s"
    return [_comparison(*row) for row in connection.execute(query, [sale, limit])]


def apart(connection: Connection) -> list[str]:
    """Return the live sales whose newest comparison showed anything but equality."""
    query = """
        SELECT sale FROM cursors AS c WHERE (SELECT drift FROM checkpoints AS k WHERE k.sale = c.sale
                                              ORDER BY epoch DESC, n DESC LIMIT 1) <> '[]' ORDER BY sale
    """
    return [sale for (sale,) in connection.execute(query)]


def unstopped(connection: Connection, sale: str) -> list[Comparison]:
    """Return the comparisons that showed a surplus which Redis may still be selling."""
    query = f"{_SELECT} WHERE sale = %s AND NOT stopped ORDER BY epoch, n"
    return [_comparison(*row) for row in connection.execute(query, [sale])]


def mark_stopped(connection: Connection, sale: str, position: Position) -> None:
    """Record that Redis sells nothing more of what this comparison showed too much of."""
    query = "UPDATE checkpoints SET stopped = true WHERE sale = %s AND epoch = %s AND n = %s"
    connection.execute(query, [sale, position.epoch, position.n])


@dataclass(frozen=True, slots=True)
class Schedule:
    """Where the checkpoints of a sale stand."""

    last: Position
    """The newest one that was asked for."""
    after: str
    """The SKU that the rotation saw last; "" when it has seen all."""


def claim(connection: Connection, seconds: float, limit: int) -> dict[str, Schedule]:
    """Take ≤ `limit` sales with events since their last checkpoint, which is `seconds` ago; nobody else takes them."""
    query = """
        UPDATE schedules SET claimed_at = now() WHERE sale IN (
            SELECT s.sale FROM schedules AS s JOIN cursors AS c USING (sale)
             WHERE ((c.epoch, c.n) > (s.epoch, s.n) OR s.sku <> '')
               AND s.claimed_at <= now() - make_interval(secs => %s)
             ORDER BY s.claimed_at LIMIT %s FOR UPDATE OF s SKIP LOCKED)
        RETURNING sale, epoch, n, sku
    """
    claimed = connection.execute(query, [seconds, limit])
    return {sale: Schedule(Position(epoch, n), sku) for sale, epoch, n, sku in claimed}


def asked(connection: Connection, sale: str, schedule: Schedule) -> None:
    """Note up to where checkpoints were asked for."""
    query = "UPDATE schedules SET epoch = %s, n = %s, sku = %s WHERE sale = %s"
    connection.execute(query, [schedule.last.epoch, schedule.last.n, schedule.after, sale])


def moved_since(connection: Connection, sale: str, position: Position, limit: int) -> list[str]:
    """Return ≤ `limit` SKUs whose counters changed after a position, in order."""
    query = """
        SELECT DISTINCT sku FROM movements WHERE sale = %s AND (epoch, n) > (%s, %s) ORDER BY sku LIMIT %s
    """
    return [sku for (sku,) in connection.execute(query, [sale, position.epoch, position.n, limit])]


def mark_all_stopped(connection: Connection, sale: str) -> None:
    """Record that no comparison so far leaves anything to stop."""
    connection.execute("UPDATE checkpoints SET stopped = true WHERE sale = %s AND NOT stopped", [sale])


_SELECT = "SELECT epoch, n, (extract(epoch FROM at) * 1000)::bigint, skus, drift FROM checkpoints"


def _comparison(epoch: int, n: int, at_ms: int, skus: int, drift: list[dict[str, Any]]) -> Comparison:
    return Comparison(Position(epoch, n), at_ms, skus, drift)
