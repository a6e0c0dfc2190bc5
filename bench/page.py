"""The results as files: JSON, a Markdown page, plots."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import limits, plots
from bench.tables import Result, filled, number, ranged, spread, table, template

CONNECTIONS = (("connections-16", 16), ("connections-64", 64), ("base", 256), ("connections-1024", 1024))


def write(result: Result, out: Path) -> list[Path]:
    """Write everything into a folder; returns the paths."""
    out.mkdir(parents=True, exist_ok=True)
    data = out / "benchmarks.json"
    data.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")  # first: the rest can be made from it again
    files = {"benchmarks.md": page(result)}
    files |= {f"benchmarks-{name}.svg": text for name, text in pictures(result).items()}
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8")
    return [data, *(out / name for name in files)]


def pictures(result: Result) -> dict[str, str]:
    """The plots by name."""
    rows = []
    for color, one in enumerate(result["contestants"]):
        rate = _rate(result, one["name"], "base")
        if rate:
            rows.append(plots.Bar(one["title"], rate["median"], rate["min"], rate["max"], color))
    rows.sort(key=lambda row: -row.value)
    return {
        "admitted": plots.bars("Purchases admitted per second, 256 connections (echo: answers)", rows),
        "connections": plots.lines("Admitted per second (echo: answers)", "connections", _lines(result, _rate)),
        "p99": plots.lines("p99 latency in ms, at full load", "connections", _lines(result, _p99)),
    }


def _rate(result: Result, name: str, cell: str) -> dict[str, float] | None:
    return spread(result, name, cell, "admitted_per_s") or (
        spread(result, name, cell, "offered_per_s") if name == "echo" else None
    )


def _p99(result: Result, name: str, cell: str) -> dict[str, float] | None:
    return spread(result, name, cell, "p99_ms")


def _lines(result: Result, of: Callable[[Result, str, str], dict[str, float] | None]) -> list[plots.Series]:
    found = []
    for color, one in enumerate(result["contestants"]):
        medians = [(n, y["median"]) for cell, n in CONNECTIONS if (y := of(result, one["name"], cell))]
        points = [(x, y) for x, y in medians if y > 0]  # the scale is logarithmic
        if points:
            found.append(plots.Series(one["title"], points, color))
    return found


def page(result: Result) -> str:
    """The whole page, from page.md and alone.md."""
    facts = {**result["machine"], **result["versions"], "client": result["client"]}
    return template("page.md").format(
        **result,
        alone=_alone(result["gatekeeper"]),
        failed="".join(f"\n**Failed, and left out:** {failure}\n" for failure in result["failures"]),
        sold_out_keys=ranged(spread(result, "gatekeeper", "sold-out-keys", "offered_per_s")),
        sold_out_no_keys=ranged(spread(result, "gatekeeper", "sold-out-no-keys", "offered_per_s")),
        targets_table=_targets(result),
        base_table=_base(result),
        rate_table=_growth(result, "admitted/s", _rate),
        p99_table=_growth(result, "p99, ms", _p99),
        units_table=_units(result),
        limits=limits.section(result),
        machine_table=table(("", ""), list(facts.items())),
    )


def _alone(found: dict[str, Any]) -> str:
    """The section about Gatekeeper alone."""
    return filled("alone.md", found, "\n") if found else ""


def _targets(result: Result) -> str:
    rows = []
    for one in result["targets"]:
        met = {True: "met", False: "**missed**", None: "not measured"}[one["met"]]
        bound = f"{'≥' if one['least'] else '≤'} {one['target']:,g}"
        rows.append((one["name"], bound, number(one["measured"]), met))
    return table(("what", "target", "measured", ""), rows)


def _base(result: Result) -> str:
    figures = ("offered_per_s", "admitted_per_s", "persisted_per_s", "p50_ms", "p99_ms", "p999_ms", "cpu_per_10k")
    counts = ("oversold", "refused_with_stock", "aborts", "errors")
    rows = []
    for one in result["contestants"]:
        found = result["figures"][one["name"]].get("base", {})
        rows.append((one["title"], *(ranged(found.get(name)) for name in (*figures, *counts))))
    head = ("", "offered/s", "admitted/s", "persisted/s", "p50 ms", "p99 ms", "p99.9 ms", "CPU s/10k")
    return table((*head, "oversold", "refused with stock", "aborts", "errors"), rows)


def _growth(result: Result, what: str, of: Callable[[Result, str, str], dict[str, float] | None]) -> str:
    cells = [*CONNECTIONS, ("skus-1000", 0)]
    rows = [
        (one["title"], *(ranged(of(result, one["name"], cell)) for cell, _ in cells)) for one in result["contestants"]
    ]
    return table((what, *(f"{n:,} conn." for _, n in CONNECTIONS), "256 conn., 1,000 SKUs"), rows)


def _units(result: Result) -> str:
    rows = []
    for one in result["contestants"]:
        found = result["figures"][one["name"]]
        if "units-1000" not in found:
            continue
        small, large = found["units-1000"], found.get("base", {})
        rates = small.get("admitted_per_s"), large.get("admitted_per_s")
        # Oversold is no matter of medians: the worst round counts.
        worst = small["oversold"]["max"] if small.get("oversold") else None
        more = (ranged(small.get(name)) for name in ("offered_per_s", "refused_with_stock", "aborts"))
        rows.append((one["title"], *(ranged(rate) for rate in rates), number(worst), *more))
    head = ("", "admitted/s, 10³ units", "admitted/s, 10⁶ units", "oversold (worst round)", "offered/s, 10³ units")
    return table((*head, "refused with stock", "aborts"), rows)
