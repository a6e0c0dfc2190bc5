"""The ratios that Gatekeeper is meant to reach, beside what this run found."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

POSTGRES = ("lock", "optimistic", "atomic", "serializable")
"""Correct baselines whose stock is in Postgres."""

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """`measured` of (figures, gatekeeper alone); `least`: the measured value may not be less, else not more."""

    name: str
    bound: float
    least: bool
    measured: Callable[[Figures, Figures], float | None]


def _median(figures: Figures, name: str, cell: str, figure: str) -> float | None:
    spread = figures.get(name, {}).get(cell, {}).get(figure)
    return float(spread["median"]) if spread else None


def _to_echo(cell: str, figure: str, name: str = "gatekeeper") -> Callable[[Figures, Figures], float | None]:
    def measured(figures: Figures, _: Figures) -> float | None:
        return _ratio(_median(figures, name, cell, figure), _median(figures, "echo", "base", "offered_per_s"))

    return measured


def _admitted(figures: Figures, name: str) -> float | None:
    return _median(figures, name, "base", "admitted_per_s")


def _to_postgres(figures: Figures, _: Figures) -> float | None:
    rates = [rate for name in POSTGRES if (rate := _admitted(figures, name))]
    return _ratio(_admitted(figures, "gatekeeper"), max(rates, default=None))


def _ratio(value: float | None, to: float | None) -> float | None:
    return value / to if value is not None and to else None


def _alone(*names: str) -> Callable[[Figures, Figures], float | None]:
    def measured(_: Figures, alone: Figures) -> float | None:
        found: Any = alone
        for name in names:
            found = found.get(name) if found else None
        return None if found is None else float(found)

    return measured


TARGETS = (
    Target("admitted/s at 256 connections, to the echo", 1.0, True, _to_echo("base", "admitted_per_s")),
    Target("sold-out answers/s with keys, to the echo", 1.5, True, _to_echo("sold-out-keys", "offered_per_s")),
    Target("sold-out answers/s without keys, to the echo", 2.2, True, _to_echo("sold-out-no-keys", "offered_per_s")),
    Target(
        "admitted/s, to EVALSHA per request", 4.5, True,
        lambda f, _: _ratio(_admitted(f, "gatekeeper"), _admitted(f, "evalsha")),
    ),
    Target("admitted/s, to the best Postgres baseline", 14, True, _to_postgres),
    Target(
        "admitted/s the plain ASGI way, to the echo", 0.65, True, _to_echo("base", "admitted_per_s", "gatekeeper-asgi")
    ),
    Target("p99 at half the peak rate, to the echo's at the same rate", 2, False, _alone("half_peak", "p99_ratio")),
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
