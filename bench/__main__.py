"""`make bench`: the gate beside a bare echo, same crowd, same machine, interleaved rounds; medians and every round.

Every purchase is admitted (stock for all), so the gate's work is the whole of it: decide, fsync, persist.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gatekeeper.demo.crowd import Address, rush
from gatekeeper.demo.story import at_the_gate, process_on
from gatekeeper.embedded import free_port
from gatekeeper.settings import Settings
from gatekeeper.stack import Stack

out, err = Console(), Console(stderr=True)
Round = dict[str, float]
NAMES = ("offered_per_s", "admitted_per_s", "persisted_per_s", "p50_ms", "p99_ms")


async def echo_round(buyers: int) -> Round:
    """Requests/s and latencies of the echo."""
    with process_on("bench.echo") as port:
        tally = await rush(Address(f"http://127.0.0.1:{port}/"), buyers, lambda done: None)
    return {
        "offered_per_s": tally.rate(tally.requests, tally.ended),
        "p50_ms": tally.percentile(0.5),
        "p99_ms": tally.percentile(0.99),
    }


def gate_round(buyers: int) -> Round:
    """The same of the gate, on a stack of its own, and what it admitted and persisted."""
    folder = Path(tempfile.mkdtemp(prefix="gatekeeper-bench-"))
    folder.chmod(0o755)
    stack = Stack(folder, free_port(), settings=Settings())
    try:
        stack.start()
        figures, *_ = asyncio.run(at_the_gate(stack, buyers, 2 * buyers, lambda done: None))
    finally:
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return {name: getattr(figures, name) for name in NAMES}


def main() -> None:
    """Run the rounds and print them."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--buyers", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rounds: dict[str, list[Round]] = {"echo": [], "gate": []}
    for number in range(given.rounds):
        err.print(f"round {number + 1} of {given.rounds}")
        rounds["echo"].append(asyncio.run(echo_round(given.buyers)))
        rounds["gate"].append(gate_round(given.buyers))
    medians = {
        name: {key: statistics.median(r[key] for r in found) for key in found[0]} for name, found in rounds.items()
    }
    if given.json:
        json.dump({"rounds": rounds, "medians": medians}, sys.stdout)
        return
    table = Table("median", *(name.replace("_per_s", "/s").replace("_", " ") for name in NAMES))
    for name, found in medians.items():
        table.add_row(name, *(f"{found[key]:.0f}" if key in found else "-" for key in NAMES))
    out.print(table)
    out.print(
        "The client (aiohttp, one process) shares the machine and is the bottleneck for peaks: compare, do not quote."
    )


if __name__ == "__main__":
    main()
