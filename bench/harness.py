"""The run: every contestant in every round, interleaved, then what only Gatekeeper can be asked."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench import client, probes, processes, targets
from bench.cells import CELLS, LOADS, PLENTY, SOLD_OUT
from bench.contestants import Baseline, Contestant, Echo, fresh_engines, roots
from bench.gate import Gatekeeper, has_fast_lane
from bench.machine import describe, versions
from bench.measure import MEANING, Figures, measure, summary

Say = Callable[[str], None]


def contestants() -> list[Contestant]:
    """Everybody, in the order of the page."""
    gate: list[Contestant] = [Gatekeeper("gatekeeper", "Gatekeeper", CELLS)]
    if processes.visible():
        title, cells = "Gatekeeper, its worker elsewhere", (*LOADS, *SOLD_OUT)
        gate.append(Gatekeeper("gatekeeper-alone", title, cells, worker_elsewhere=True))
    if has_fast_lane():
        gate.append(Gatekeeper("gatekeeper-asgi", "Gatekeeper, plain ASGI way", LOADS, options=("--no-fast-lane",)))
    return [
        Echo("echo", "bare ASGI echo", LOADS, decides=False),
        *gate,
        Baseline("evalsha", "EVALSHA per request, Starlette"),
        Baseline("lock", "Redis lock + NOWAIT (004-1)"),
        Baseline("optimistic", "optimistic version (004-2)"),
        Baseline("atomic", "atomic UPDATE (004-3)"),
        Baseline("serializable", "SERIALIZABLE + FOR UPDATE (001)"),
        Baseline("naive", "check, then decrement (000)", correct=False),
    ]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. `limit`: seconds after which no further round begins."""

    rounds: int = 3
    seconds: float = 2.0
    limit: float = 700.0
    names: Sequence[str] = ()
    """Contestants; none = all."""
    cells: Sequence[str] = tuple(cell.name for cell in CELLS)
    sizes: probes.Sizes | None = probes.FULL
    """How large the measurements of Gatekeeper alone are; None leaves them out."""


def run(plan: Plan, say: Say) -> dict[str, Any]:
    """Measure everything; returns what becomes the JSON. `say` hears one line per step."""
    started, began = time.monotonic(), time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    chosen = [c for c in contestants() if not plan.names or c.name in plan.names]
    found: dict[str, dict[str, list[Figures]]] = {c.name: {} for c in chosen}
    machine = describe()
    failures: list[str] = []
    done = _rounds(plan, chosen, found, failures, started, say)
    figures = {name: {cell: summary(of) for cell, of in cells.items()} for name, cells in found.items()}
    alone = _alone(plan, figures, failures, say)
    return {
        "began": began,
        "seconds": round(time.monotonic() - started, 1),
        "machine": machine,
        "versions": versions(),
        "client": client.name(),
        "plan": {"rounds": done, "seconds": plan.seconds, "rounds_planned": plan.rounds},
        "meaning": MEANING,
        "contestants": [{"name": c.name, "title": c.title, "correct": c.correct} for c in chosen],
        "cells": [{"name": c.name, "connections": c.connections, "skus": c.skus, "units": c.units} for c in CELLS],
        "rounds": found,
        "figures": figures,
        "gatekeeper": alone,
        "targets": targets.compare(figures, alone),
        "failures": failures,
    }


def _rounds(
    plan: Plan,
    chosen: Sequence[Contestant],
    found: dict[str, dict[str, list[Figures]]],
    failures: list[str],
    started: float,
    say: Say,
) -> int:
    """Fill `found` round by round; returns how many there was time for."""
    longest = 0.0
    for number in range(plan.rounds):
        elapsed = time.monotonic() - started
        reserve = plan.sizes.seconds if plan.sizes else 0.0
        if number and elapsed + longest + reserve > plan.limit:
            say(f"round {number + 1} would take longer than the limit of {plan.limit:.0f} s: left out")
            return number
        # Another one begins each time: none always follows the same.
        shift = number * len(chosen) // plan.rounds
        for contestant in (*chosen[shift:], *chosen[:shift]):
            say(f"round {number + 1} of {plan.rounds}, {elapsed:.0f} s: {contestant.title}")
            try:
                for cell, figures in _visit(contestant, plan, say):
                    found[contestant.name].setdefault(cell, []).append(figures)
            except probes.FAILURES as error:  # one contestant's trouble must not cost the whole run
                failures.append(f"round {number + 1}, {contestant.title}: {type(error).__name__}: {error}")
                say(failures[-1])
            elapsed = time.monotonic() - started
        longest = max(longest, elapsed / (number + 1))
    return plan.rounds


def _visit(contestant: Contestant, plan: Plan, say: Say) -> Iterator[tuple[str, Figures]]:
    """Run all cells of one contestant on fresh engines, and yield what each came to."""
    cells = [cell for cell in contestant.cells if cell.name in plan.cells]
    with fresh_engines() as engines, contestant.open(engines) as desk:
        client.warm(desk.prepare(1, PLENTY))
        desk.books()
        kinds = roots(engines)
        for cell in cells:
            figures = measure(contestant, desk, kinds, cell, plan.seconds)
            admitted = f"{rate:9.0f} admitted/s" if (rate := figures.get("admitted_per_s")) else ""
            answered, p99 = figures["offered_per_s"], figures["p99_ms"]
            say(f"  {cell.name:18} {answered:9.0f} answers/s   p99 {p99:8.1f} ms {admitted}")
            yield cell.name, figures


def _alone(plan: Plan, figures: dict[str, Any], failures: list[str], say: Say) -> dict[str, Any]:
    """What only Gatekeeper is asked."""
    base = figures.get("gatekeeper", {}).get("base")
    if plan.sizes is None or not base:
        return {}
    return probes.run(plan.sizes, base["admitted_per_s"]["median"], failures, say)
