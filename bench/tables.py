"""From the results' figures to Markdown: numbers, tables, and templates with gaps for them."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

Result = dict[str, Any]
"""What `harness.run` returns."""


def spread(result: Result, contestant: str, cell: str, figure: str) -> dict[str, float] | None:
    """Median, min and max of a figure; None when it was not measured."""
    found: dict[str, float] | None = result["figures"].get(contestant, {}).get(cell, {}).get(figure)
    return found


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; every column but the first is flush right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def number(value: float | None) -> str:
    """Three digits, or all of a large number."""
    if value is None:
        return "-"
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def ranged(found: dict[str, float] | None) -> str:
    """Median and, in brackets, both ends."""
    if found is None:
        return "-"
    if found["min"] == found["max"]:
        return number(found["median"])
    return f"{number(found['median'])} ({number(found['min'])} to {number(found['max'])})"


def template(name: str) -> str:
    """A file of this folder."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def filled(name: str, facts: dict[str, Any], between: str) -> str:
    """A template without those of its parts that need what was not measured; `between`: what sets them apart."""
    parts = []
    for part in template(name).split(between):
        with suppress(KeyError):
            parts.append(part.format(**facts))
    return between.join(parts)
