"""The section about what limits Gatekeeper: CPU time by process, the front door's own work, and what was tried."""

from typing import Any

from bench.measure import PROFILE
from bench.tables import Result, filled, number, spread, table, template

CELLS = {
    "base": "selling",
    "sold-out-keys": "sold out, with keys",
    "sold-out-no-keys": "sold out, without keys",
}
"""Shown, each with 256 connections."""
CONTESTANTS = ("echo", "gatekeeper", "gatekeeper-alone", "gatekeeper-asgi")
_HEAD = (
    "CPU µs per answered request", "answers/s", "door, user", "door, system", "Valkey", "worker", "Postgres", "client",
    "all", "cores used by the door", "by all", "cores idle",
)  # fmt: skip
_WAYS = {"admitted": "admitted", "sold_out_keys": "sold out, with a key", "sold_out_no_keys": "sold out, without a key"}


def section(result: Result) -> str:
    """The section as limits.md has it, without the parts that were not measured."""
    facts = {"cores": result["machine"]["cores"], "tried": template("tried.md").strip()}
    profile = _profile(result) or "Not measured in this run; only Linux tells what each process takes.\n"
    return filled("limits.md", facts | {"profile": profile} | _door(result["gatekeeper"].get("door")), "\n### ")


def _profile(result: Result) -> str:
    shown = [one for one in result["contestants"] if one["name"] in CONTESTANTS]
    rows, sentences = [], []
    for cell, what in CELLS.items():
        for one in shown:
            found = {name: spread(result, one["name"], cell, name) for name in ("offered_per_s", *PROFILE)}
            medians = {name: number(figure["median"] if figure else None) for name, figure in found.items()}
            if not found["cores_used"]:
                continue
            rows.append((f"{one['title']}: {what}", *medians.values()))
            if cell == "base":
                used, door, cores = medians["cores_used"], medians["door_cores"], result["machine"]["cores"]
                sentences.append(
                    f"- {one['title']}: all of them used {used} of {cores} cores, the door {door} of one.\n"
                )
    return f"{table(_HEAD, rows)}\nWhile selling:\n\n{''.join(sentences)}" if rows else ""


def _door(found: dict[str, Any] | None) -> dict[str, str]:
    """The front door's own work as two tables."""
    if not found:
        return {}
    ways = [(what, number(found[f"{way}_us"])) for way, what in _WAYS.items()]
    steps = [(step, number(us)) for step, us in found["steps_us"].items()]
    return {
        "connections": number(found["connections"]),
        "ways": table(("a purchase", "CPU µs"), ways),
        "steps": table(("a step of it", "CPU µs"), steps),
    }
