"""The locust benchmark against a whole stack, as a process of its own: locust patches every socket of its process."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree

import pytest

from gatekeeper.embedded import free_port
from gatekeeper.settings import Settings
from gatekeeper.stack import Stack

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """What a shell needs to use a stack with the sale `rush` of 60 jackets."""
    folder = Path(tempfile.mkdtemp(prefix="gatekeeper-locust-"))
    folder.chmod(0o755)
    stack = Stack(folder, free_port(), settings=Settings())
    try:
        stack.start()
        known = stack.description()
        found = {k: v for k, v in os.environ.items() if not k.startswith(("GATEKEEPER_", "LOCUST_"))} | {
            "GATEKEEPER_STATE_DIR": str(folder),
            "GATEKEEPER_REDIS_URL": known["redis_url"],
            "GATEKEEPER_DATABASE_URL": known["database_url"],
            "GATEKEEPER_SHOP_KEY": known["shop_key"],
            "GATEKEEPER_ADMIN_KEY": known["admin_key"],
            "LOCUST_HOST": known["url"],
        }
        for words, text in (
            ("sale create rush --per-buyer 2 --hold-seconds 2", ""),
            ("stock load rush -", "sku,quantity\nJACKET,60\n"),
            ("sale open rush", ""),
        ):
            command = [sys.executable, "-m", "gatekeeper", *words.split()]
            subprocess.run(command, input=text, text=True, env=found, check=True, capture_output=True)
        yield found
    finally:
        stack.stop()
        rmtree(folder, ignore_errors=True)


def locust(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", "bench/locustfile.py", "--headless", "--only-summary", *words]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_two_processes_of_buyers_leave_books_that_fit_and_a_report(environment: dict[str, str], tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    run = locust(
        environment, "--sale", "rush", "--run-time", "5", "--arrival-rate", "40", "--processes", "2",
        "--master-bind-port", str(port := free_port()), "--master-port", str(port), "--html", str(report),
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert "passed    nothing oversold" in run.stdout and "409 sold_out" in run.stdout
    assert "</html>" in report.read_text()


def test_a_violated_threshold_is_exit_1(environment: dict[str, str], tmp_path: Path) -> None:
    run = locust(
        environment, "--sale", "rush", "--run-time", "2", "--max-p99-ms", "0.001", "--html", str(tmp_path / "r.html")
    )
    assert run.returncode == 1 and "missed    p99" in run.stdout, run.stdout + run.stderr


def test_a_sale_that_is_not_there_is_explained(environment: dict[str, str]) -> None:
    run = locust(environment, "--sale", "nope")
    assert run.returncode == 2
    assert all(
        f"gatekeeper {words}" in run.stderr for words in ("sale create nope", "stock load nope", "sale open nope")
    )
