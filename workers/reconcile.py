"""Reconcile a sale exactly, under full load: compare both sides at the same positions of the outbox.

`checkpoint` appends an event with Redis's own counters; when the drain reaches it, the ledger must count the same.
Nothing is paused, and purchases go on in between.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gatekeeper.errors import GatekeeperError
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection, checkpoints, cursors, quarantine, stock
from gatekeeper.model import Position
from workers.drain import Stop, drain

SKUS_PER_CHECKPOINT = 500
"""One event's size, ≈ 15 kB, and ≈ 1 ms of Redis's time."""
PAGE = 10_000
PATIENCE = 60.0
"""Seconds to wait for the drain to reach the last checkpoint."""


class NotReached(GatekeeperError):
    """The ledger did not get as far as the checkpoint, so nothing is known."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a reconciliation found. No drift: both sides were equal at every checkpoint up to `position`."""

    skus_compared: int
    drift: list[dict[str, Any]]
    """{sku, redis: {available, held, sold, granted}, ledger: {…}, unproven: named by an event in quarantine} each."""
    position: Position | None
    unproven: list[str]
    """SKUs that an event in quarantine names, equal or not."""


async def reconcile(
    gate: Gate,
    connection: Connection,
    sale: str,
    *,
    keep: int,
    progress: Callable[[int], None] = lambda skus: None,
) -> Report:
    """Compare every SKU that either side knows; works with and without a running worker."""
    await gate.availability(sale, limit=1)  # a sale that is not there, or fenced, says so
    skus = sorted({*await _redis_skus(gate, sale), *stock.rows(connection, sale)})
    positions = []
    for start in range(0, len(skus), SKUS_PER_CHECKPOINT):
        positions.append(await gate.checkpoint(sale, skus[start : start + SKUS_PER_CHECKPOINT]))
        progress(min(start + SKUS_PER_CHECKPOINT, len(skus)))
    if positions:
        await _reach(gate, connection, sale, positions[-1], keep)
    drift, unproven = checkpoints.drift(connection, sale, positions), sorted(quarantine.skus(connection, sale))
    return Report(len(skus), drift, positions[-1] if positions else None, unproven)


async def _redis_skus(gate: Gate, sale: str) -> list[str]:
    skus: list[str] = []
    while page := await gate.sku_names(sale, skus[-1] if skus else "", PAGE):
        skus += page
    return skus


async def _reach(gate: Gate, connection: Connection, sale: str, position: Position, keep: int) -> None:
    """Drain, beside any worker that does, until the ledger has applied the position."""
    deadline = time.monotonic() + PATIENCE
    while (cursors.read(connection, sale) or Position(0, 0)) < position:
        drained = await drain(gate, connection, sale, keep=keep)
        if drained.stop is Stop.FENCED or time.monotonic() > deadline:
            raise NotReached(
                f"the ledger of {sale} did not reach {position}: {drained.stop.value}. See `gatekeeper doctor`"
            )
        if drained.stop is Stop.BUSY:
            await asyncio.sleep(0.02)
