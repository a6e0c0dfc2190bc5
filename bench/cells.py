"""What is offered: so many connections, SKUs and units."""

from dataclasses import dataclass

PLENTY = 1_000_000
"""Units that no cell sells out."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One load. `name` is how results call it; `keyed`: requests carry an Idempotency-Key."""

    name: str
    connections: int = 256
    skus: int = 1
    units: int = PLENTY
    keyed: bool = True


LOADS = (
    Cell("base"),
    Cell("connections-16", connections=16),
    Cell("connections-64", connections=64),
    Cell("connections-1024", connections=1024),
)
STOCKS = (Cell("skus-1000", skus=1000), Cell("units-1000", units=1000))
SOLD_OUT = (Cell("sold-out-keys", units=1), Cell("sold-out-no-keys", units=1, keyed=False))
CELLS = (*LOADS, *STOCKS, *SOLD_OUT)
