"""What one worker process holds open: the gate's Redis, and the ledger."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from gatekeeper.gate import Gate, connect
from gatekeeper.ledger import Connection
from gatekeeper.ledger import connect as connect_ledger
from gatekeeper.settings import Settings

REDIS_TIMEOUT = 5.0
"""Seconds; nobody waits for a worker, and a batch of events is larger than a purchase."""


class Connections:
    """A gate and a ledger connection; the latter is made when needed, and made again once it broke."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings.require("redis_url", "database_url")
        self.gate = Gate(connect(settings.redis_url, timeout=REDIS_TIMEOUT))
        self._ledger: Connection | None = None

    @contextmanager
    def ledger(self) -> Iterator[Connection]:
        """Lend the connection; one that failed is closed, so that the next loan makes a new one."""
        if self._ledger is None or self._ledger.closed:
            self._ledger = connect_ledger(self.settings.database_url)
        try:
            yield self._ledger
        except psycopg.Error as error:
            if isinstance(error, psycopg.OperationalError) or self._ledger.broken:
                self._ledger.close()
            raise

    async def close(self) -> None:
        """Close both."""
        if self._ledger is not None:
            self._ledger.close()
        await self.gate.redis.aclose()
