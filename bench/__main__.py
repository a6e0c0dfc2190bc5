"""`make bench`: measure every contestant on this machine, then write JSON, a page and plots."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from bench import harness, page, probes
from bench.cells import CELLS

ROOT = Path(__file__).parent.parent
NOT_QUICK = ("gatekeeper-asgi",)
"""Contestants that a quick run has no time for, unless it is asked for them."""


def main() -> None:
    """Run, write, and say where."""
    names, cells = [c.name for c in harness.contestants()], [c.name for c in CELLS]
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help=f"one short round without {NOT_QUICK[0]}, < 60 s; figures are only a hint"
    )
    parser.add_argument("--rounds", type=int, help="of all contestants (3)")
    parser.add_argument("--seconds", type=int, help="of load per cell (2); wrk takes whole ones")
    parser.add_argument("--only", type=_words(names), default=[], metavar="NAME,…", help=", ".join(names))
    parser.add_argument("--cells", type=_words(cells), default=[], metavar="NAME,…", help=", ".join(cells))
    parser.add_argument("--no-probes", action="store_true", help="leave out what only Gatekeeper is asked")
    parser.add_argument("--out", type=Path, help="folder of the results (docs; with --quick build/bench)")
    parser.add_argument("--from", dest="source", type=Path, metavar="JSON", help="only write page and plots again")
    given = parser.parse_args()
    out = given.out or ROOT / ("build/bench" if given.quick else "docs")
    result = json.loads(given.source.read_text()) if given.source else harness.run(_plan(given, names, cells), _say)
    for path in page.write(result, out):
        print(path)
    if result["failures"]:
        sys.exit(f"error: {len(result['failures'])} parts failed; the page names them")


def _plan(given: argparse.Namespace, names: list[str], cells: list[str]) -> harness.Plan:
    sizes = probes.QUICK if given.quick else probes.FULL
    some = [name for name in names if name not in NOT_QUICK] if given.quick else names
    few = ["base"] if given.quick else cells
    return harness.Plan(
        rounds=given.rounds or (1 if given.quick else 3),
        seconds=given.seconds or (1 if given.quick else 2),
        names=given.only or some,
        cells=given.cells or few,
        sizes=None if given.no_probes else sizes,
    )


def _words(allowed: list[str]) -> Callable[[str], list[str]]:
    def words(text: str) -> list[str]:
        found = text.split(",")
        if unknown := set(found) - set(allowed):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: expected some of {', '.join(allowed)}")
        return found

    return words


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
