"""The values that travel between client and measurement: where to buy, and what was seen there."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """Where purchases are sent."""

    port: int
    path: str
    skus: int = 1
    """SKU-0000, SKU-0001, … in turn."""
    bearer: str = ""
    keyed: bool = True
    """Whether requests carry an Idempotency-Key."""
    run: str = "run"
    """Makes keys unique."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client saw."""

    requests: int
    """Answered within the time."""
    refused: int
    """Of those, not answered 2xx."""
    errors: int
    """Without an answer."""
    seconds: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    late_ms: float = 0.0
    """p99 of the client's own lateness (open loop)."""

    @property
    def accepted(self) -> int:
        """Answered 2xx."""
        return max(0, self.requests - self.refused)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that this share of a sorted sequence does not exceed; 0 of nothing."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def sku_names(count: int) -> list[str]:
    """The SKUs that the clients ask for."""
    return [f"SKU-{number:04}" for number in range(count)]
