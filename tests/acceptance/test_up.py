"""`gatekeeper up` as a person uses it: found by other commands, stops clean, comes back with its data."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

from gatekeeper.embedded import free_port

GATEKEEPER = [sys.executable, "-m", "gatekeeper"]


@pytest.fixture
def state() -> Iterator[Path]:
    """A state folder that Postgres's user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="gatekeeper-up-"))
    folder.chmod(0o755)
    yield folder
    rmtree(folder, ignore_errors=True)


class Up:
    """A running `gatekeeper up --json`."""

    def __init__(self, state: Path, port: int) -> None:
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("GATEKEEPER_")}
        self.environment["GATEKEEPER_STATE_DIR"] = str(state)
        self.state = state
        self.process = subprocess.Popen(
            [*GATEKEEPER, "up", "--json", "--port", str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
        )
        assert self.process.stdout
        self.line = self.process.stdout.readline()

    @property
    def known(self) -> dict[str, str]:
        return json.loads(self.line)

    def cli(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [*GATEKEEPER, *words]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, env=self.environment, check=False)

    def buy(self, sale: str, key: str) -> tuple[int, dict[str, Any]]:
        body = {"buyer": "bob", "items": [{"sku": "JACKET", "quantity": 1}]}
        return self.post(f"{sale}/reservations", body, **{"Idempotency-Key": key})

    def post(self, path: str, body: dict[str, Any], **headers: str) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(
            f"{self.known['url']}/v1/sales/{path}",
            data=json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.known['shop_key']}",
                "Content-Type": "application/json",
                **headers,
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def status(self, sale: str) -> dict[str, Any]:
        return json.loads(self.cli("sale", "status", sale, "--json").stdout)

    def processes(self) -> list[int]:
        """Every process that works in this stack's folder or for it."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                said = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            except OSError:
                continue
            if str(self.state).encode() in said and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        return found

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(30)
        assert self.process.stdout and self.process.stderr
        self.process.stdout.close()
        self.process.stderr.close()
        return code


@pytest.fixture
def start(state: Path) -> Iterator[Callable[[int], Up]]:
    """Start stacks on the state folder; whatever a failed test left running is killed."""
    started: list[Up] = []

    def start(port: int) -> Up:
        started.append(Up(state, port))
        return started[-1]

    yield start
    for up in started:
        if up.process.poll() is None:
            up.stop(signal.SIGKILL)


def gone(up: Up) -> bool:
    deadline = time.monotonic() + 10
    while up.processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not up.processes()


def test_a_sale_runs_from_the_command_line_survives_a_restart_and_nothing_stays_running(
    state: Path, start: Callable[[int], Up]
) -> None:
    port = free_port()
    up = start(port)
    assert up.known.keys() == {"url", "shop_key", "admin_key", "redis_url", "database_url"}
    assert (state / "up.json").stat().st_mode & 0o777 == 0o600
    assert up.cli("sale", "create", "coats").returncode == 0
    assert up.cli("stock", "load", "coats", "-", stdin="sku,quantity\nJACKET,1\n").returncode == 0
    assert up.buy("coats", "k1")[1]["code"] == "sale_not_open"
    assert up.cli("sale", "open", "coats").returncode == 0
    status, reservation = up.buy("coats", "k1")
    assert (status, reservation["state"]) == (201, "held")
    assert up.buy("coats", "k2")[1]["code"] == "sold_out"
    assert up.cli("doctor").returncode == 0
    assert up.stop(signal.SIGINT) == 0
    assert gone(up) and not (state / "up.json").exists()

    again = start(port)
    assert again.known["shop_key"] == up.known["shop_key"]
    assert again.buy("coats", "k1") == (200, reservation)
    report = json.loads(again.cli("reconcile", "coats", "--json").stdout)
    assert (report["skus_compared"], report["drift"]) == (1, [])
    (row,) = json.loads(again.cli("reservations", "list", "coats", "--json").stdout)
    assert row["id"] == reservation["id"]
    assert again.stop() == 0
    assert gone(again)


def test_holds_end_by_themselves_and_late_money_goes_back(start: Callable[[int], Up]) -> None:
    up = start(free_port())
    up.cli("sale", "create", "coats", "--hold-seconds", "1")
    up.cli("stock", "load", "coats", "-", stdin="sku,quantity\nJACKET,1\n")
    up.cli("sale", "open", "coats")
    status, first = up.buy("coats", "k1")
    assert status == 201
    bought, tries = time.monotonic(), 0
    while up.buy("coats", f"again-{tries}")[0] == 409:
        tries += 1
        time.sleep(0.05)
    assert 1 <= time.monotonic() - bought < 1 + 2
    second = up.buy("coats", f"again-{tries}")[1]
    assert up.post(f"coats/reservations/{second['id']}/confirm", {"payment": "p2"})[1]["state"] == "sold"
    code, late = up.post(f"coats/reservations/{first['id']}/confirm", {"payment": "p1"})
    assert (code, late["code"], late["refund_due"]) == (409, "hold_expired", "p1")
    assert up.post(f"coats/reservations/{first['id']}/settle", {"refund": "b1"})[0] == 200
    deadline = time.monotonic() + 15
    while (seen := up.status("coats"))["pending"] or not seen["checkpoint"]:  # compared without being asked
        assert time.monotonic() < deadline, seen
        time.sleep(0.2)
    assert seen["checkpoint"]["result"] == "equal" and seen["expiry_heartbeat"]
    assert seen["totals"] == {"available": 0, "held": 0, "sold": 1, "granted": 1}
    states = {row["id"]: row["state"] for row in json.loads(up.cli("reservations", "list", "coats", "--json").stdout)}
    assert (states[first["id"]], states[second["id"]]) == ("expired", "sold")
    assert up.cli("sale", "close", "coats", "--yes").returncode == 0
    assert up.cli("sale", "archive", "coats", "--yes").returncode == 0
    assert up.buy("coats", "k9")[1]["code"] == "sale_closed"
    assert up.post(f"coats/reservations/{second['id']}/confirm", {"payment": "p2"})[1]["code"] == "sale_closed"
    assert up.cli("doctor").returncode == 0
    assert up.stop() == 0


def test_killed_outright_it_takes_everything_with_it(start: Callable[[int], Up]) -> None:
    up = start(free_port())
    assert up.line
    assert up.stop(signal.SIGKILL) == -9
    assert gone(up)


def test_a_busy_port_is_refused_in_one_sentence_before_anything_starts(state: Path, start: Callable[[int], Up]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        up = start(taken.getsockname()[1])
        assert up.process.stderr
        said = up.process.stderr.read()
        assert up.stop() == 1
    assert said.startswith("error: port ") or '"error": "port ' in said
    assert "busy" in said and "--port" in said
    assert list(state.iterdir()) == []


def test_without_settings_and_without_a_stack_a_command_says_what_to_do(state: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "GATEKEEPER_STATE_DIR": str(state)}
    run = subprocess.run([*GATEKEEPER, "sale", "list"], capture_output=True, text=True, env=environment, check=False)
    assert (run.returncode, run.stdout) == (1, "")
    assert "gatekeeper up" in run.stderr
