"""Expiry: gives back the units of holds past their deadline. It needs Redis alone, and judges by Redis's clock.

Front doors hint when the first hold of a sale ends, so a round looks only at sales of which a hold is due. A hint can
get lost with a front door; a slow rotation over the catalogue finds those. Two of these processes do no harm.
"""

import logging
import time

from gatekeeper import metrics
from gatekeeper.errors import GateError, SaleArchived, UnknownSale
from gatekeeper.gate import Gate
from workers.connections import Connections
from workers.loop import Round, run

log = logging.getLogger(__name__)

NAME = "expiry"
TICK = 0.25
"""Seconds between rounds."""
HOLDS_PER_CALL = 500
"""≈ 5 ms of Redis's time: no purchase waits longer for a sweep."""
CALLS_PER_TURN = 20
"""Calls for one sale before it is another's turn."""
SALES_PER_ROUND = 1000
BUDGET = 5.0
"""Seconds that a round with more and more to do may take, so that the rotation and the heartbeat go on."""
ROTATION = 1.0
"""Seconds between steps of the rotation; the heartbeat goes with it."""
SALES_PER_STEP = 200
RETRY_MS = 1000
"""Until a sale that could not be swept (fenced, say) is tried again."""


class Expiry:
    """One round: sweep every sale of which a hold is due, turn by turn, until none is."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._next_step = 0.0
        self._cursor = 0

    async def round(self) -> None:
        """Raises GateUnavailable when Redis is gone."""
        if time.monotonic() >= self._next_step:
            await self._rotate()
            self._next_step = time.monotonic() + ROTATION
        deadline = time.monotonic() + BUDGET
        while time.monotonic() < deadline:
            now, sales = await self._gate.due(SALES_PER_ROUND)
            for sale in sales:
                await self._turn(sale, now)
            if not sales:
                break
        metrics.EXPIRY_SWEEP.set_to_current_time()

    async def _turn(self, sale: str, now_ms: int) -> None:
        try:
            await sweep(self._gate, sale)
        except (SaleArchived, UnknownSale):
            await self._gate.forget_deadline(sale)
        except GateError as error:
            log.warning("expiry of %s waits: %s", sale, error)
            await self._gate.forget_deadline(sale)
            await self._gate.remind({sale: now_ms + RETRY_MS})

    async def _rotate(self) -> None:
        """Look at the next sales of the catalogue, whose hints may be lost, and leave word of being alive."""
        now, _ = await self._gate.due(0)
        await self._gate.beat(NAME, now)
        self._cursor, sales = await self._gate.catalogue_page(self._cursor, SALES_PER_STEP)
        if deadlines := await self._gate.first_deadlines(sales) if sales else {}:
            await self._gate.remind(deadlines)


async def sweep(gate: Gate, sale: str, *, calls: int = CALLS_PER_TURN, holds: int = HOLDS_PER_CALL) -> int:
    """Expire up to `calls` times `holds` overdue holds and leave a hint for the next one; returns how many expired."""
    # Taken away before the look, so that a hint which comes meanwhile is not lost with it.
    await gate.forget_deadline(sale)
    expired = 0
    for _ in range(calls):
        swept = await gate.expire(sale, holds)
        expired += swept.expired
        if swept.expired:
            metrics.EXPIRED.inc(swept.expired)
            metrics.EXPIRY_LAG.observe((swept.now_ms - swept.oldest_ms) / 1000)
        if swept.expired < holds:
            break
    if swept.next_ms:
        await gate.remind({sale: swept.next_ms})
    if expired:
        await gate.ring([sale])
    return expired


def _round(connections: Connections) -> Round:
    return Expiry(connections.gate).round


if __name__ == "__main__":
    run(_round, every=TICK)
