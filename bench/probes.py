"""What only Gatekeeper is asked, over HTTP. Each part is bounded by `Sizes`, and runs on fresh engines."""

import asyncio
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import psycopg
from redis import RedisError

from bench import client, inside, processes
from bench.cells import PLENTY
from bench.contestants import Desk, Echo, fresh_engines
from bench.gate import GateDesk, Gatekeeper
from bench.target import Seen, percentile
from gatekeeper.errors import GatekeeperError
from gatekeeper.ledger import connect as connect_ledger
from gatekeeper.ledger import cursors
from workers.connections import Connections

LAG_RATE = 5000
"""Purchases/s at which the drain's lag is measured."""
PACED_CONNECTIONS = 256
FEW = 1000
"""Reservations of the sale that a sale with very many is compared with."""
FILLED_WITHIN = 180.0
DOOR_WITHIN = 60.0
_POLL = 0.002

FAILURES = (GatekeeperError, RedisError, psycopg.Error, OSError, RuntimeError, subprocess.SubprocessError)
"""What may go wrong with processes, engines and connections (TimeoutError is an OSError)."""

Say = Callable[[str], None]
Part = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the parts are; 0 leaves one out."""

    rounds: int
    paced_seconds: float
    ledger_events: int
    holds: int
    settled: int
    many: int
    """Reservations that a sale has already, compared with FEW."""
    many_seconds: float
    lag_seconds: float
    door_rounds: int
    seconds: float
    """What all of it takes, about."""


FULL = Sizes(3, 2.0, 100_000, 100_000, 10_000, 1_000_000, 2.0, 4.0, door_rounds=5, seconds=195)
QUICK = Sizes(1, 1.0, 10_000, 10_000, 1_000, many=0, many_seconds=0.0, lag_seconds=0.0, door_rounds=1, seconds=18)


def run(sizes: Sizes, peak: float, failures: list[str], say: Say) -> dict[str, Part]:
    """Run all parts; `peak`: purchases/s admitted at 256 connections. What fails is left out, and told."""
    parts: dict[str, Callable[[], Part]] = {
        "half_peak": lambda: half_peak(sizes, peak / 2),
        "ledger": lambda: asyncio.run(inside.ledger(sizes.ledger_events)),
        "memory": lambda: asyncio.run(inside.memory(sizes.holds, sizes.settled)),
        "door": lambda: door(sizes.door_rounds),
    }
    if sizes.lag_seconds:
        parts["lag"] = lambda: lag(sizes)
    if sizes.many:
        parts["million"] = lambda: million(sizes)
    found = {}
    for name, part in parts.items():
        say(f"Gatekeeper alone: {name}")
        started = time.monotonic()
        try:
            found[name] = part()
        except FAILURES as error:
            failures.append(f"Gatekeeper alone, {name}: {type(error).__name__}: {error}")
            say(failures[-1])
            continue
        shown = ", ".join(f"{key} {value:.4g}" for key, value in found[name].items() if isinstance(value, float | int))
        say(f"  {shown}   ({time.monotonic() - started:.0f} s)")
    return found


@contextmanager
def _gate() -> Iterator[GateDesk]:
    with fresh_engines() as engines, Gatekeeper("gatekeeper", "").open(engines) as desk:
        assert isinstance(desk, GateDesk)
        client.warm(desk.prepare(1, PLENTY))
        desk.books()
        yield desk


def half_peak(sizes: Sizes, rate: float) -> Part:
    """Latency at a constant arrival rate, beside the echo's at the same rate, in turns; `elsewhere`: the worker is."""
    seen: dict[str, list[Seen]] = {}
    with _gate() as gate, fresh_engines() as unused, Echo("echo", "").open(unused) as echo:
        client.warm(echo.prepare(1, 1))
        turns: dict[str, tuple[Desk, Callable[[], AbstractContextManager[None]]]]
        turns = {"echo": (echo, nullcontext), "gatekeeper": (gate, nullcontext)}
        if processes.visible():
            turns["elsewhere"] = gate, gate.without_worker
        for _ in range(sizes.rounds):
            for name, (desk, around) in turns.items():
                target = desk.prepare(1, PLENTY)
                with around():
                    paced = client.pace(target, PACED_CONNECTIONS, sizes.paced_seconds, rate)
                desk.books()
                seen.setdefault(name, []).append(paced)
    result: Part = {"rate": rate}
    for name, rounds in seen.items():
        for figure in ("p50_ms", "p99_ms", "p999_ms", "late_ms"):
            result[f"{name}_{figure}"] = statistics.median(getattr(one, figure) for one in rounds)
        result[f"{name}_p99_rounds"] = [one.p99_ms for one in rounds]
        result[f"{name}_refused_or_lost"] = sum(one.refused + one.errors for one in rounds)
    for name, of in (("p99_ratio", "gatekeeper"), ("elsewhere_p99_ratio", "elsewhere")):
        if of in seen:
            result[name] = result[f"{of}_p99_ms"] / result["echo_p99_ms"]
    return result


def door(rounds: int) -> Part:
    """The front door's own work; in a process of its own, where Python's collector is set as the door sets it."""
    command = [sys.executable, "-m", "bench.door", str(rounds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=DOOR_WITHIN, check=True)
    found: Part = json.loads(done.stdout)
    return found


def lag(sizes: Sizes) -> Part:
    """From Redis's promise to the ledger's commit, purchase by purchase, at LAG_RATE."""
    with _gate() as gate:
        target = gate.prepare(1, PLENTY)
        watch = _Watch(gate)
        seen = client.pace(target, PACED_CONNECTIONS, sizes.lag_seconds, LAG_RATE)
        books = gate.books()
        seconds = sorted(watch.lags())
    found = {f"p{name}_ms": 1000 * percentile(seconds, share) for name, share in (("50", 0.5), ("99", 0.99))}
    return {"rate": LAG_RATE, "admitted_per_s": seen.accepted / seen.seconds, "purchases": books.sold, **found}


class _Watch(threading.Thread):
    """Looks at the cursor again and again, until asked for what it saw."""

    def __init__(self, gate: GateDesk) -> None:
        super().__init__(daemon=True)
        self._gate, self._ended = gate, threading.Event()
        self._seen: list[tuple[float, int]] = []
        self.start()

    def run(self) -> None:
        with connect_ledger(self._gate.settings.database_url) as ledger:
            while not self._ended.wait(_POLL):
                self._seen.append((time.time(), cursors.units(ledger, self._gate.sale)))

    def lags(self) -> Iterator[float]:
        """End, and yield each purchase's seconds; the n-th admitted is the n-th applied."""
        self._ended.set()
        self.join(10)
        query = "SELECT extract(epoch FROM created_at) FROM reservations WHERE sale = %s ORDER BY created_at"
        with connect_ledger(self._gate.settings.database_url) as ledger:
            created = [float(at) for (at,) in ledger.execute(query, [self._gate.sale])]
        number = 0
        for at, units in self._seen:
            while number < min(units, len(created)):
                yield max(0.0, at - created[number])
                number += 1


def million(sizes: Sizes) -> Part:
    """Purchases/s admitted by a sale that has very many reservations, beside one that has few, in turns."""
    rates: dict[int, list[float]] = {FEW: [], sizes.many: []}
    with _gate() as gate:
        sales = {}
        for reservations in rates:
            gate.prepare(1, reservations + PLENTY)
            sales[reservations] = gate.sale
            asyncio.run(_fill(gate, reservations))
        for turn in range(2 * sizes.rounds):  # a small difference is looked for
            for reservations in (FEW, sizes.many) if turn % 2 else (sizes.many, FEW):
                gate.sale = sales[reservations]
                seen = client.rush(gate.target(), 256, sizes.many_seconds)
                gate.books()
                rates[reservations].append(seen.accepted / seen.seconds)
    many, few = statistics.median(rates[sizes.many]), statistics.median(rates[FEW])
    rounds = {"few_rounds": rates[FEW], "many_rounds": rates[sizes.many]}
    return {"few": FEW, "many": sizes.many, "few_per_s": few, "many_per_s": many, "ratio": many / few, **rounds}


async def _fill(gate: GateDesk, reservations: int) -> None:
    """Let the sale have so many reservations, in Redis and in the ledger."""
    connections = Connections(gate.settings)
    try:
        await inside.fill(connections.gate, gate.sale, reservations)
        deadline = time.monotonic() + FILLED_WITHIN
        with connections.ledger() as ledger:
            while cursors.units(ledger, gate.sale) < reservations:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the ledger did not take {reservations} events in {FILLED_WITHIN:.0f} s")
                await asyncio.sleep(0.1)
    finally:
        await connections.close()
