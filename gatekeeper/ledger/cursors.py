"""A sale's cursor: how far the ledger has applied its outbox, and the lock of every writer of the sale."""

from gatekeeper.ledger.connection import Connection
from gatekeeper.model import Position


def try_lock(connection: Connection, sale: str) -> Position | None:
    """Lock the cursor until the transaction ends and return it; None when another drain has it."""
    query = "SELECT epoch, n FROM cursors WHERE sale = %s FOR UPDATE SKIP LOCKED"
    row = connection.execute(query, [sale]).fetchone()
    return Position(*row) if row else None


def lock(connection: Connection, sale: str) -> Position | None:
    """Wait for the cursor, lock it until the transaction ends and return it; None when there is no such sale."""
    row = connection.execute("SELECT epoch, n FROM cursors WHERE sale = %s FOR UPDATE", [sale]).fetchone()
    return Position(*row) if row else None


def move(connection: Connection, sale: str, position: Position) -> None:
    """Record that everything up to `position` is applied; in the transaction that applied it."""
    query = "UPDATE cursors SET epoch = %s, n = %s, moved_at = now() WHERE sale = %s"
    connection.execute(query, [position.epoch, position.n, sale])


def units(connection: Connection, sale: str) -> int:
    """Return the units held or sold, of all SKUs together; 0 when there is no such sale."""
    row = connection.execute("SELECT units FROM cursors WHERE sale = %s", [sale]).fetchone()
    return int(row[0]) if row else 0


def add_units(connection: Connection, sale: str, change: int) -> None:
    """Keep the sum of units held or sold; in the transaction that changed them."""
    connection.execute("UPDATE cursors SET units = units + %s WHERE sale = %s", [change, sale])


def read(connection: Connection, sale: str) -> Position | None:
    """Return the cursor without locking it; None when there is no such sale."""
    row = connection.execute("SELECT epoch, n FROM cursors WHERE sale = %s", [sale]).fetchone()
    return Position(*row) if row else None


def page(connection: Connection, after: str, limit: int) -> dict[str, Position]:
    """Return ≤ `limit` cursors of the sales that follow `after` in byte order, for a rotation over all of them."""
    query = 'SELECT sale, epoch, n FROM cursors WHERE sale COLLATE "C" > %s ORDER BY sale COLLATE "C" LIMIT %s'
    return {sale: Position(epoch, n) for sale, epoch, n in connection.execute(query, [after, limit])}


def newest(connection: Connection, limit: int) -> dict[str, Position]:
    """Return the ≤ `limit` cursors that moved last."""
    query = "SELECT sale, epoch, n FROM cursors ORDER BY moved_at DESC LIMIT %s"
    return {sale: Position(epoch, n) for sale, epoch, n in connection.execute(query, [limit])}
