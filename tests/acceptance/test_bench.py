"""The benchmark harness itself: a short run tells of every contestant what the page needs, and nobody oversells."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench import harness, processes
from bench.measure import MEANING, PROFILE
from bench.tables import number

ROOT = Path(__file__).parents[2]
WANTED, CELLS = ("gatekeeper", "gatekeeper-alone", "atomic"), ("base", "units-1000")
CONTESTANTS = {one.name: {cell.name for cell in one.cells} for one in harness.contestants() if one.name in WANTED}

linux = pytest.mark.skipif(not processes.visible(), reason="only Linux tells what processes take, and whose they are")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of a few contestants, a second per cell."""
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
    for name, cells in found["figures"].items():
        assert set(cells) == set(CELLS) & CONTESTANTS[name]
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
    found = [cells["units-1000"] for cells in read(results)["figures"].values() if "units-1000" in cells]
    assert found and all(figures["refused_with_stock"]["max"] == 0 for figures in found)


@linux
def test_it_tells_what_each_kind_of_process_takes(results: Path) -> None:
    found = read(results)
    figures = {name: cells["base"] for name, cells in found["figures"].items()}
    whole = {name: spread["median"] for name, spread in figures["gatekeeper"].items() if name in PROFILE}
    parts = [us for name, us in whole.items() if name.endswith("_us") and name != "cpu_all_us"]
    assert min(parts) > 0 and sum(parts) == pytest.approx(whole["cpu_all_us"])
    assert 0 < whole["door_cores"] < 1.1 and whole["door_cores"] < whole["cores_used"]
    assert figures["atomic"]["cpu_worker_us"] is None
    page = (results / "benchmarks.md").read_text()
    assert f"Gatekeeper: all of them used {number(whole['cores_used'])} of {found['machine']['cores']} cores" in page


@linux
def test_a_worker_elsewhere_takes_nothing_while_the_client_sends_and_misses_nothing(results: Path) -> None:
    figures = read(results)["figures"]["gatekeeper-alone"]["base"]
    assert figures["cpu_worker_us"]["max"] < 2  # /proc counts in 10 ms, and to stop takes a moment
    assert figures["admitted_per_s"]["min"] > 0 and figures["unpersisted"]["max"] == 0
    assert figures["persisted_per_s"] is None  # when they were persisted says nothing about a worker elsewhere


def test_the_page_and_its_plots_are_whole(results: Path) -> None:
    page = (results / "benchmarks.md").read_text()
    for name in ("admitted", "connections", "p99"):
        assert f"benchmarks-{name}.svg" in page
        ElementTree.parse(results / f"benchmarks-{name}.svg")
    assert "{" not in page
