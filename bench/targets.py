"""The ratios that Gatekeeper is meant to reach, beside what this run found."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

POSTGRES = ("lock", "optimistic", "atomic", "serializable")
"""Correct baselines whose stock is in Postgres."""

Figures = dict[str, Any]
Measured = Callable[[Figures, Figures], float | None]
"""Of (figures, gatekeeper alone); None: not in this run."""
MeasuredOf = Callable[[str, Figures, Figures], float | None]
"""The same of a contestant: (name, figures, gatekeeper alone)."""


@dataclass(frozen=True, slots=True)
class Target:
    """`least`: the measured value may not be less, else not more."""

    name: str
    bound: float
    least: bool
    measured: Measured


def _median(figures: Figures, name: str, cell: str, figure: str) -> float | None:
    spread = figures.get(name, {}).get(cell, {}).get(figure)
    return float(spread["median"]) if spread else None


def _to_echo(cell: str, figure: str) -> MeasuredOf:
    def measured(name: str, figures: Figures, _: Figures) -> float | None:
        return _ratio(_median(figures, name, cell, figure), _median(figures, "echo", "base", "offered_per_s"))

    return measured


def _admitted_to(*others: str) -> MeasuredOf:
    """To the best of the others."""

    def measured(name: str, figures: Figures, _: Figures) -> float | None:
        rates = [rate for other in others if (rate := _admitted(figures, other))]
        return _ratio(_admitted(figures, name), max(rates, default=None))

    return measured


def _admitted(figures: Figures, name: str) -> float | None:
    return _median(figures, name, "base", "admitted_per_s")


def _ratio(value: float | None, to: float | None) -> float | None:
    return value / to if value is not None and to else None


def _alone(*names: str) -> Measured:
    def measured(_: Figures, alone: Figures) -> float | None:
        found: Any = alone
        for name in names:
            found = found.get(name) if found else None
        return None if found is None else float(found)

    return measured


def _p99_ratio(name: str, figures: Figures, alone: Figures) -> float | None:
    return _alone("half_peak", "p99_ratio" if name == "gatekeeper" else "elsewhere_p99_ratio")(figures, alone)


def _both(name: str, bound: float, least: bool, measured: MeasuredOf) -> tuple[Target, Target]:
    """The target of the whole stack, and the same with its worker elsewhere."""
    elsewhere = Target(f"{name}; worker elsewhere", bound, least, partial(measured, "gatekeeper-alone"))
    return Target(name, bound, least, partial(measured, "gatekeeper")), elsewhere


TARGETS = (
    *_both("admitted/s at 256 connections, to the echo", 1.0, True, _to_echo("base", "admitted_per_s")),
    *_both("sold-out answers/s with keys, to the echo", 1.5, True, _to_echo("sold-out-keys", "offered_per_s")),
    *_both("sold-out answers/s without keys, to the echo", 2.2, True, _to_echo("sold-out-no-keys", "offered_per_s")),
    *_both("admitted/s, to EVALSHA per request", 4.5, True, _admitted_to("evalsha")),
    *_both("admitted/s, to the best Postgres baseline", 14, True, _admitted_to(*POSTGRES)),
    *_both("p99 at half the peak rate, to the echo's at the same rate", 2, False, _p99_ratio),
    Target(
        "admitted/s the plain ASGI way, to the echo", 0.65, True,
        partial(_to_echo("base", "admitted_per_s"), "gatekeeper-asgi"),
    ),
    Target("ledger rows/s of one worker", 50_000, True, _alone("ledger", "rows_per_s")),
    Target("Redis bytes per live hold", 300, False, _alone("memory", "bytes_per_hold")),
    Target("admitted/s at 10⁶ reservations, to at 10³", 0.95, True, _alone("million", "ratio")),
)  # fmt: skip


def compare(figures: Figures, alone: Figures) -> list[dict[str, Any]]:
    """Return each target with what was measured (None: not in this run) and whether it is met."""
    rows = []
    for target in TARGETS:
        value = target.measured(figures, alone)
        met = None if value is None else value >= target.bound if target.least else value <= target.bound
        rows.append({"name": target.name, "least": target.least, "target": target.bound, "measured": value, "met": met})
    return rows
