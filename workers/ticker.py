"""The ticker: rings for the sales that have events past their cursor. Two tickers do no harm.

Front doors hint which sales got events, so 10,000 sales of which 10 are hot cost as the 10. A hint can get lost with
a front door; a slow rotation over all sales finds those.
"""

import time
from collections.abc import Iterable

from rq import Queue

from gatekeeper import metrics
from gatekeeper.ledger import cursors
from workers.connections import Connections
from workers.loop import Round, run
from workers.queue import enqueue_drain, queue

TICK = 0.1
"""Seconds between looks at the doorbell."""
ROTATION = 1.0
"""Seconds between steps of the rotation."""
SALES_PER_STEP = 200
"""Sales that one step looks at: 10,000 sales in 50 s."""
SALES_PER_JOB = 50
MAX_JOBS = 20
"""Waiting jobs; more would only wait too, so the sales ring again later."""


class Ticker:
    """One round: take the hints, now and then a step of the rotation, and enqueue drains for what waits."""

    def __init__(self, connections: Connections, jobs: Queue) -> None:
        self._connections = connections
        self._jobs = jobs
        self._next_step = 0.0
        self._after = ""

    async def round(self) -> None:
        """Ring once; raises GateError or psycopg.OperationalError when Redis or Postgres is gone."""
        gate = self._connections.gate
        waiting = set(await gate.rung(1000))
        if time.monotonic() >= self._next_step:
            waiting |= await self._rotate()
            self._next_step = time.monotonic() + ROTATION
        if waiting and self._jobs.count >= MAX_JOBS:
            await gate.ring(waiting)
        else:
            self._enqueue(waiting)
        metrics.TICKS.set_to_current_time()

    async def _rotate(self) -> set[str]:
        """Look at the next sales in order; returns those with events past their cursor."""
        with self._connections.ledger() as ledger:
            page = cursors.page(ledger, self._after, SALES_PER_STEP)
        self._after = list(page)[-1] if len(page) == SALES_PER_STEP else ""
        last = await self._connections.gate.last_positions(list(page)) if page else {}
        return {sale for sale, position in last.items() if position != page[sale]}

    def _enqueue(self, waiting: Iterable[str]) -> None:
        sales = sorted(waiting)
        for start in range(0, len(sales), SALES_PER_JOB):
            enqueue_drain(self._jobs, sales[start : start + SALES_PER_JOB])


def _round(connections: Connections) -> Round:
    return Ticker(connections, queue(connections.settings)).round


if __name__ == "__main__":
    run(_round, every=TICK)
