"""The benchmark harness itself: a short run tells of every contestant what the page needs, and nobody oversells."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.measure import MEANING

ROOT = Path(__file__).parents[2]
CONTESTANTS, CELLS = ("gatekeeper", "atomic"), ("base", "units-1000")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two contestants, a second per cell."""
    out = tmp_path_factory.mktemp("bench")
    words = ["--quick", "--no-probes", "--only", ",".join(CONTESTANTS), "--cells", ",".join(CELLS), "--out", str(out)]
    done = subprocess.run([sys.executable, "-m", "bench", *words], cwd=ROOT, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    return out


def read(results: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((results / "benchmarks.json").read_text())
    return found


def test_the_json_tells_every_figure_of_every_contestant_and_cell(results: Path) -> None:
    found = read(results)
    assert set(found["figures"]) == set(CONTESTANTS)
    for cells in found["figures"].values():
        assert set(cells) == set(CELLS)
        for figures in cells.values():
            assert set(figures) == set(MEANING)
            assert all(spread is None or set(spread) == {"median", "min", "max"} for spread in figures.values())
            assert figures["admitted_per_s"]["min"] > 0
    assert {"machine", "versions", "client", "plan", "rounds", "targets"} <= set(found)
    assert all(row["met"] in (True, False, None) for row in found["targets"])


def test_no_correct_contestant_oversold_or_forgot_a_promise(results: Path) -> None:
    found = read(results)
    for contestant in found["contestants"]:
        assert contestant["correct"]
        for figures in found["figures"][contestant["name"]].values():
            assert figures["oversold"]["max"] == 0
            assert figures["unpersisted"]["max"] == 0


def test_a_thousand_units_sell_out(results: Path) -> None:
    for cells in read(results)["figures"].values():
        assert cells["units-1000"]["refused_with_stock"]["max"] == 0


def test_the_page_and_its_plots_are_whole(results: Path) -> None:
    page = (results / "benchmarks.md").read_text()
    for name in ("admitted", "connections", "p99"):
        assert f"benchmarks-{name}.svg" in page
        ElementTree.parse(results / f"benchmarks-{name}.svg")
    assert "{" not in page
