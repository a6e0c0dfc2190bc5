"""`serve` as a process: what it refuses to start with, how it stops, and what it does without its Redis."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from gatekeeper.embedded import free_port, start_valkey
from tests.integration.door import KEYS, FrontDoor
from tests.lua.sale import SALE, Sale


def refused(redis_url: str, *options: str, **settings: str) -> tuple[int, str]:
    """Exit code and stderr of a `serve` that does not start."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GATEKEEPER_")}
    environment |= {"GATEKEEPER_REDIS_URL": redis_url, "GATEKEEPER_KEYS": KEYS, **settings}
    command = [sys.executable, "-m", "gatekeeper", "serve", "--port", "0", *options]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20)
    assert result.stdout == "" and "Traceback" not in result.stderr
    return result.returncode, result.stderr


def test_without_keys_it_refuses_and_says_how_to_make_one(redis_url: str) -> None:
    code, said = refused(redis_url, GATEKEEPER_KEYS="")
    assert code == 1 and "gatekeeper keys create" in said


def test_an_unsafe_redis_is_refused_with_its_remedy(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("appendfsync", "everysec")
        try:
            code, said = refused(redis_url)
        finally:
            client.config_set("appendfsync", "always")
    assert code == 1 and "appendfsync is everysec, expected always" in said


def test_a_taken_port_is_one_line_that_says_what_to_do(redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        code, said = refused(redis_url, "--port", str(other.getsockname()[1]))
    assert code == 1 and "--port" in said and len(said.strip().splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(redis_url: str, number: signal.Signals) -> None:
    door = FrontDoor(redis_url).wait()
    door.process.send_signal(number)
    assert door.process.wait(15) == 0
    assert door.stop() == 0


def test_started_before_its_redis_it_answers_503_and_serves_once_redis_is_there(tmp_path: Path) -> None:
    port = free_port()
    door = FrontDoor(f"redis://127.0.0.1:{port}/0").wait("/livez")
    try:
        unready = door.get("/readyz")
        assert (unready.status, unready.code, unready.headers["retry-after"]) == (503, "not_ready", "1")
        refused = door.buy(SALE, key="k1")
        assert (refused.status, refused.code, refused.headers["idempotency-key"]) == (503, "gate_unavailable", "k1")
        with start_valkey(tmp_path / "valkey", port=port) as engine:
            sale = Sale(engine.url).create()
            door.wait("/readyz")
            assert door.buy(SALE, key="k1").status == 201
            sale.close()
    finally:
        assert door.stop() == 0


def test_a_redis_that_hangs_is_503_within_a_second_for_everyone_and_service_when_it_goes_on(tmp_path: Path) -> None:
    with start_valkey(tmp_path / "valkey") as engine:
        sale = Sale(engine.url).create(stock="A:1000")
        door = FrontDoor(engine.url).wait()
        try:
            assert door.buy(SALE, key="before").status == 201

            def timed(i: int) -> tuple[int, float]:
                time.sleep(i * 0.04)
                started = time.monotonic()
                return door.buy(SALE, key=f"k{i}").status, time.monotonic() - started

            engine.process.send_signal(signal.SIGSTOP)
            try:
                with ThreadPoolExecutor(50) as threads:
                    answers = list(threads.map(timed, range(50)))
            finally:
                engine.process.send_signal(signal.SIGCONT)
            assert {status for status, _ in answers} == {503}
            assert max(seconds for _, seconds in answers) < 1
            back = time.monotonic()
            while (answer := door.buy(SALE, key="after")).status == 503:
                assert time.monotonic() - back < 5
            assert answer.status == 201
            # What the clients were told is true: nobody knew. Asking again finds out, and takes one unit per key.
            assert {door.buy(SALE, key=f"k{i}").status for i in range(50)} <= {200, 201}
            assert sale.stock()["A"].split()[:2] == ["948", "52"]
        finally:
            assert door.stop() == 0
            sale.close()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_killed_worker_is_replaced_while_the_others_serve(redis_url: str) -> None:
    sale = Sale(redis_url).create(stock="A:1000")
    door = FrontDoor(redis_url, workers=2).wait()
    try:
        before = workers(door)
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        deadline = time.monotonic() + 15
        while len(now := workers(door)) < 2 or before[0] in now:
            assert time.monotonic() < deadline
            assert door.buy(SALE).status == 201
            time.sleep(0.1)
        assert before[1] in now
    finally:
        assert door.stop() == 0
        sale.close()


def workers(door: FrontDoor) -> list[int]:
    """The pids of its living worker processes."""
    children = Path(f"/proc/{door.process.pid}/task/{door.process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
