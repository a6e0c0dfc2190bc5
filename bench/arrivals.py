"""When buyers come and what they are like. Pure: no clock, no I/O; the same luck gives the same crowd."""

from collections.abc import Iterator
from enum import Enum
from random import Random


class Kind(Enum):
    """How a buyer clicks."""

    ONCE = "once"
    RETRIES = "retries"
    """A double-click, then the page loaded again: three requests with one key."""
    BOT = "bot"
    """Purchase after purchase, each with a key of its own, waiting for nothing."""


def arrivals(rate: float, luck: Random) -> Iterator[float]:
    """Yield when buyers come, in seconds from the start, without end: `rate` a second on average, independent of
    each other (a Poisson process), so they bunch as real ones do. Several such streams add up to one of the sum of
    their rates. Raises ValueError unless rate > 0.
    """
    if not rate > 0:
        raise ValueError(f"arrivals per second: expected more than 0, got {rate}")
    at = 0.0
    while True:
        at += luck.expovariate(rate)
        yield at


def kind(luck: Random, *, retries: float, bots: float) -> Kind:
    """Draw a buyer; `retries` and `bots` are shares of all buyers, the others click once."""
    number = luck.random()
    if number < bots:
        return Kind.BOT
    return Kind.RETRIES if number < bots + retries else Kind.ONCE
