"""Numbered, forward-only SQL files in migrations/, each applied once, in order, in a transaction of its own."""

from importlib.resources import files

from gatekeeper.errors import GatekeeperError
from gatekeeper.ledger.connection import Connection, connect

_LOCK = 0x6761746B65657065  # "gatekeepe": two migrations at once follow one another
_TABLE = "CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"


class NewerDatabase(GatekeeperError):
    """The database has migrations that this version of Gatekeeper does not know."""


def shipped() -> dict[str, str]:
    """Return the SQL of every migration by file name, in order."""
    folder = files(__package__).joinpath("migrations")
    found = sorted((f.name, f.read_text(encoding="utf-8")) for f in folder.iterdir() if f.name.endswith(".sql"))
    return dict(found)


def applied(connection: Connection) -> list[str]:
    """Return the names of the migrations that this database has, in order; none when it has no ledger."""
    if not connection.execute("SELECT to_regclass('migrations')").fetchone()[0]:  # type: ignore[index]
        return []
    return [name for (name,) in connection.execute("SELECT name FROM migrations ORDER BY name")]


def missing(connection: Connection) -> list[str]:
    """Return the names of the migrations to apply; raises NewerDatabase."""
    done, known = applied(connection), shipped()
    if newer := sorted(set(done) - set(known)):
        raise NewerDatabase(f"the database has the newer migrations {', '.join(newer)}: upgrade Gatekeeper first")
    return [name for name in known if name not in done]


def migrate(database_url: str) -> list[str]:
    """Bring the database up to date; returns the names of what was applied. Safe to run twice, or at once."""
    with connect(database_url) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
        connection.execute(_TABLE)
        names = missing(connection)
        for name in names:
            with connection.transaction():
                connection.execute(shipped()[name])
                connection.execute("INSERT INTO migrations (name) VALUES (%s)", [name])
        return names
