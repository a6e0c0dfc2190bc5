"""What only Gatekeeper is asked. Each part is bounded by `Sizes`, and runs on fresh engines."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the parts are."""

    rounds: int
    paced_seconds: float
    ledger_events: int
    holds: int
    settled: int
    many: int
    """Reservations that a sale has already, against 1,000."""
    many_seconds: float
    lag_seconds: float
    seconds: float
    """What all of it takes, at most."""


FULL = Sizes(3, 3.0, 200_000, 100_000, 20_000, 1_000_000, 2.0, 4.0, seconds=180)
QUICK = Sizes(1, 1.0, 20_000, 20_000, 2_000, 20_000, 1.0, 1.0, seconds=20)


def run(sizes: Sizes, peak: float, say: Say) -> dict[str, Any]:
    """Run all parts; `peak`: purchases/s admitted at 256 connections."""
    return {}
