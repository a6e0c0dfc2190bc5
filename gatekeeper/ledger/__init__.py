"""The ledger in Postgres: every SQL statement of the project is in this folder.

Every write of a sale takes its row in `cursors` first, so the writers of one sale follow one another.
"""

from gatekeeper.ledger.connection import Connection, allow_pauses, connect
from gatekeeper.ledger.migrate import migrate

__all__ = ["Connection", "allow_pauses", "connect", "migrate"]
