"""Checkpoints on schedule: where something happened, compare what the drain touched, then rotate over all SKUs.

Each is an event in the outbox; the drain compares it when it gets there (reconcile.py has the same on demand).
"""

import logging
import time

from redis.exceptions import ResponseError

from gatekeeper import metrics
from gatekeeper.errors import GateError, GateUnavailable
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection, checkpoints, cursors, reports, stock
from gatekeeper.ledger.checkpoints import Schedule
from workers.connections import Connections
from workers.loop import Round, run
from workers.reconcile import SKUS_PER_CHECKPOINT

log = logging.getLogger(__name__)

TICK = 0.5
"""Seconds between looks for sales that are due."""
SALES_PER_ROUND = 100
CENSUS = 5.0
"""Seconds between counts of what waits for the ledger, or for a person."""
TOUCHED = 5_000
"""SKUs that changed since the last time: at most so many in one go."""
ROTATION = 60.0
"""Seconds in which all of a sale's SKUs are compared, up to 100,000 of them."""
MAX_SKUS = 100_000


class Checkpoints:
    """One round: a step for every sale that is due."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._next_census = 0.0
        self._every = connections.settings.checkpoint_seconds

    async def round(self) -> None:
        """Raises GateUnavailable or psycopg.OperationalError when Redis or Postgres is gone."""
        with self._connections.ledger() as ledger:
            for sale, schedule in checkpoints.claim(ledger, self._every, SALES_PER_ROUND).items():
                try:
                    await step(self._connections.gate, ledger, sale, schedule, every=self._every)
                except GateUnavailable:
                    raise
                except (GateError, ResponseError) as error:  # fenced, or damaged: its next turn comes
                    log.info("no checkpoint of %s: %s", sale, error)
            if time.monotonic() >= self._next_census:
                self._next_census = time.monotonic() + CENSUS
                await _census(self._connections.gate, ledger)


async def _census(gate: Gate, connection: Connection) -> None:
    metrics.QUARANTINED.set(reports.quarantined(connection))
    metrics.REFUNDS_DUE.set(reports.all_refunds_due(connection))
    moved = cursors.newest(connection, SALES_PER_ROUND)
    last = await gate.last_positions(list(moved)) if moved else {}
    metrics.PENDING.set(
        sum(p.n - moved[sale].n if p.epoch == moved[sale].epoch else p.n + 1 for sale, p in last.items())
    )


async def step(gate: Gate, connection: Connection, sale: str, schedule: Schedule, *, every: float) -> None:
    """Ask for checkpoints of what changed since the last ones, and of the rotation's next SKUs."""
    touched = checkpoints.moved_since(connection, sale, schedule.last, TOUCHED)
    turn = max(SKUS_PER_CHECKPOINT, round(MAX_SKUS * every / ROTATION))
    rotated, after = await _rotate(gate, connection, sale, schedule.after, turn)
    skus, last = list(dict.fromkeys((*touched, *rotated))), schedule.last
    for start in range(0, len(skus), SKUS_PER_CHECKPOINT):
        last = await gate.checkpoint(sale, skus[start : start + SKUS_PER_CHECKPOINT])
    checkpoints.asked(connection, sale, Schedule(last, after))
    if skus:
        await gate.ring([sale])


async def _rotate(gate: Gate, connection: Connection, sale: str, after: str, count: int) -> tuple[list[str], str]:
    """Return the next SKUs in byte order that either side knows, and where to go on: "" after the last."""
    known = {*stock.names(connection, sale, after, count), *await gate.sku_names(sale, after, count)}
    skus = sorted(known)[:count]
    return skus, skus[-1] if len(skus) == count else ""


def _round(connections: Connections) -> Round:
    return Checkpoints(connections).round


if __name__ == "__main__":
    run(_round, every=TICK)
