"""The parts of the bench that need no engines: processes held still, targets, the front door's own work, the page."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import limits, processes, targets

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(not processes.visible(), reason="only Linux tells whose children processes are")


@pytest.fixture
def family() -> Iterator[list[int]]:
    """The pids of a process and of its child, which has a session of its own as a worker's has."""
    command = ["sh", "-c", "setsid sleep 60 & echo $!; wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        yield [parent.pid, child]
        os.kill(child, signal.SIGKILL)


def stopped(pids: list[int]) -> list[bool]:
    return [Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("T") for pid in pids]


def wait_until_stopped(pids: list[int], wanted: bool) -> None:
    deadline = time.monotonic() + 5
    while stopped(pids) != [wanted] * len(pids):
        assert time.monotonic() < deadline, f"stopped: {stopped(pids)}, not {wanted}"
        time.sleep(0.005)


@linux
def test_a_process_and_its_children_are_held_still_and_go_on(family: list[int]) -> None:
    assert processes.tree(family[0]) == family
    with processes.held_still(family[0]):
        wait_until_stopped(family, True)
    wait_until_stopped(family, False)


@linux
def test_they_go_on_when_the_load_fails(family: list[int]) -> None:
    with pytest.raises(RuntimeError), processes.held_still(family[0]):
        wait_until_stopped(family, True)
        raise RuntimeError("the client failed")
    wait_until_stopped(family, False)


@linux
def test_they_go_on_when_the_bench_is_killed(family: list[int]) -> None:
    code = f"from bench.processes import held_still\nwith held_still({family[0]}):\n print(flush=True)\n input()"
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as bench:
        assert bench.stdout
        bench.stdout.readline()
        wait_until_stopped(family, True)
        bench.kill()
    wait_until_stopped(family, False)


@linux
def test_cpu_time_is_that_of_the_whole_tree() -> None:
    command = ["sh", "-c", f"{sys.executable} -c 'while True: pass' & echo $!; wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        busy = int(parent.stdout.readline())
        deadline = time.monotonic() + 10
        try:
            while sum(processes.spent({"door": parent.pid})["door"]) < 0.1:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            os.kill(busy, signal.SIGKILL)
    assert sum(processes.spent({"door": parent.pid})["door"]) == 0  # it is gone


def test_every_target_of_the_whole_stack_has_one_with_the_worker_elsewhere() -> None:
    def cell(figure: str, value: float) -> dict[str, Any]:
        return {figure: {"median": value}}

    figures = {
        "echo": {"base": cell("offered_per_s", 100)},
        "evalsha": {"base": cell("admitted_per_s", 20)},
        "atomic": {"base": cell("admitted_per_s", 10)},
        "lock": {"base": cell("admitted_per_s", 1)},
        "gatekeeper": {"base": cell("admitted_per_s", 90)},
        "gatekeeper-alone": {"base": cell("admitted_per_s", 140), "sold-out-keys": cell("offered_per_s", 160)},
    }
    rows = targets.compare(figures, {"half_peak": {"p99_ratio": 3.0, "elsewhere_p99_ratio": 1.5}})
    found = {row["name"]: (row["measured"], row["met"]) for row in rows}
    assert len(found) == len(rows)
    here = [name for name in found if f"{name}; worker elsewhere" in found]
    assert [found[name] for name in here] == [
        (0.9, False), (None, None), (None, None), (4.5, True), (9.0, False), (3.0, False)
    ]  # fmt: skip
    assert [found[f"{name}; worker elsewhere"] for name in here] == [
        (1.4, True), (1.6, True), (None, None), (7.0, True), (14.0, True), (1.5, True)
    ]  # fmt: skip


def test_the_front_doors_own_work_is_measured_step_by_step() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-m", "bench.door", "1"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert min(found[f"{way}_us"] for way in ("admitted", "sold_out_keys", "sold_out_no_keys")) > 0
    assert len(found["steps_us"]) == 6 and min(found["steps_us"].values()) > 0
    shown = limits.section({"machine": {"cores": "2"}, "contestants": [], "gatekeeper": {"door": found}})
    assert all(f"| {step} |" in shown for step in found["steps_us"])


def test_without_figures_the_page_says_so_and_still_tells_what_was_tried() -> None:
    shown = limits.section({"machine": {"cores": "2"}, "contestants": [], "gatekeeper": {}})
    assert "Not measured" in shown and "own work" not in shown and "What was tried" in shown
