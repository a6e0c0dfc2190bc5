"""Sales as the ledger knows them."""

from dataclasses import dataclass
from datetime import datetime

from psycopg.types.json import Jsonb

from gatekeeper.ledger import cursors
from gatekeeper.ledger.connection import Connection


@dataclass(frozen=True, slots=True)
class SaleRow:
    """A sale's row. The state follows Redis's as the outbox is drained."""

    sale: str
    state: str
    opens_at: datetime | None
    closes_at: datetime | None
    per_buyer: int
    """Units one buyer may have; 0 = no limit."""
    hold_ms: int
    created_at: datetime


_SELECT = "SELECT sale, state, opens_at, closes_at, per_buyer, hold_ms, created_at FROM sales"


def insert(
    connection: Connection,
    sale: str,
    *,
    opens_at: datetime | None,
    closes_at: datetime | None,
    per_buyer: int,
    hold_ms: int,
    actor: str,
) -> bool:
    """Enter a draft and its cursor; False when the name is, or ever was, taken."""
    with connection.transaction():
        inserted = connection.execute(
            "INSERT INTO sales (sale, state, opens_at, closes_at, per_buyer, hold_ms) "
            "VALUES (%s, 'draft', %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            [sale, opens_at, closes_at, per_buyer, hold_ms],
        ).rowcount
        if inserted:
            # The first event of the first epoch will be 1-0.
            connection.execute("INSERT INTO cursors (sale, epoch, n) VALUES (%s, 1, -1)", [sale])
            connection.execute("INSERT INTO schedules (sale) VALUES (%s)", [sale])
            audit(connection, sale, actor, "create", {})
    return bool(inserted)


def get(connection: Connection, sale: str) -> SaleRow | None:
    """Return a sale's row, or None."""
    row = connection.execute(f"{_SELECT} WHERE sale = %s", [sale]).fetchone()
    return SaleRow(*row) if row else None


def rows(connection: Connection) -> list[SaleRow]:
    """Return all sales that were not deleted, newest first."""
    return [SaleRow(*row) for row in connection.execute(f"{_SELECT} WHERE state <> 'deleted' ORDER BY created_at DESC")]


def live(connection: Connection) -> list[str]:
    """Return the names of the sales that Redis should hold, those that sell first."""
    query = (
        "SELECT sale FROM sales WHERE state NOT IN ('archived', 'deleted') ORDER BY state <> 'open', created_at DESC"
    )
    return [sale for (sale,) in connection.execute(query)]


def archived(connection: Connection) -> list[str]:
    """Return the names of the sales of which Redis should hold a tombstone."""
    return [sale for (sale,) in connection.execute("SELECT sale FROM sales WHERE state = 'archived'")]


def reservation_count(connection: Connection, sale: str) -> int:
    """Return how many reservations of a sale the ledger has."""
    row = connection.execute("SELECT count(*) FROM reservations WHERE sale = %s", [sale]).fetchone()
    return int(row[0]) if row else 0


def hold_count(connection: Connection, sale: str) -> int:
    """Return how many reservations of a sale are held."""
    query = "SELECT count(*) FROM reservations WHERE sale = %s AND state = 'held'"
    row = connection.execute(query, [sale]).fetchone()
    return int(row[0]) if row else 0


def delete(connection: Connection, sale: str, *, actor: str) -> None:
    """Mark a draft as deleted; its row stays, so that its name is never used again."""
    with connection.transaction():
        cursors.lock(connection, sale)
        _retire(connection, sale, "deleted")
        audit(connection, sale, actor, "delete", {})


def archive(connection: Connection, sale: str, *, actor: str, detail: dict[str, object]) -> None:
    """Mark a sale of which Redis holds only a tombstone; in the caller's transaction. Its books stay."""
    _retire(connection, sale, "archived")
    audit(connection, sale, actor, "archive", detail)


def _retire(connection: Connection, sale: str, state: str) -> None:
    connection.execute("UPDATE sales SET state = %s WHERE sale = %s", [state, sale])
    connection.execute("DELETE FROM schedules WHERE sale = %s", [sale])
    connection.execute("DELETE FROM cursors WHERE sale = %s", [sale])


def audit(connection: Connection, sale: str, actor: str, action: str, detail: dict[str, object]) -> None:
    """Note who did what that no event of the outbox tells."""
    query = "INSERT INTO audit (sale, actor, action, detail) VALUES (%s, %s, %s, %s)"
    connection.execute(query, [sale, actor, action, Jsonb(detail)])
