"""The bundled client, on one event loop: closed loop (as fast as answers come) or open loop (at a constant rate).

In the open loop a latency counts from the moment when the request was due, so that a stall of the server is felt by
everybody who would have come meanwhile.
"""

import asyncio
import gc
import re
import time
from collections import deque
from collections.abc import Iterator
from itertools import count
from typing import Any

import uvloop

from bench.target import Seen, Target, percentile

TICK = 0.001
"""Seconds between two looks at who is due."""
GRACE = 10.0
"""Seconds for the last answers."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def requests_of(target: Target) -> Iterator[bytes]:
    """Yield whole requests, the same that purchases.lua makes."""
    head = f"POST {target.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    if target.bearer:
        head += f"Authorization: Bearer {target.bearer}\r\n"
    for number in count(1):
        body = f'{{"buyer":"b{number:09}","items":[{{"sku":"SKU-{number % target.skus:04}","quantity":1}}]}}'
        key = f"Idempotency-Key: {target.run}-{number:09}\r\n" if target.keyed else ""
        yield f"{head}Content-Length: {len(body)}\r\n{key}\r\n{body}".encode()


class Crowd:
    """All connections, and what they saw."""

    def __init__(self, target: Target) -> None:
        self.requests = requests_of(target)
        self.free: list[Line] = []
        self.due: deque[float] = deque()
        """When those should have been sent for whom no connection is free."""
        self.latencies: list[float] = []
        self.refused = self.lost = 0
        self.lateness: list[float] = []
        """Seconds by which this client itself looked too late."""
        self.closed_loop_until = 0.0

    def answered(self, line: "Line", status: bytes, now: float) -> None:
        """Count an answer, and give the connection its next request."""
        self.latencies.append(now - line.due)
        self.refused += not status.startswith(b"2")
        if self.due:
            line.send(self.due.popleft())
        elif now < self.closed_loop_until:
            line.send(now)
        else:
            self.free.append(line)


class Line(asyncio.Protocol):
    """One kept connection with at most one request on its way."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd, self._buffer = crowd, b""
        self.due = 0.0

    def connection_made(self, transport: Any) -> None:  # uvloop's is none of asyncio's classes
        self.transport = transport
        self._crowd.free.append(self)

    def send(self, due: float) -> None:
        """Send the next request, which should have been sent at `due`."""
        self.due = due
        self.transport.write(next(self._crowd.requests))

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        end = data.find(b"\r\n\r\n")
        length = _LENGTH.search(data, 0, end + 2) if end >= 0 else None
        if length is None or len(data) < end + 4 + int(length[1]):
            self._buffer = data
            return
        self._buffer = b""
        self._crowd.answered(self, data[9:12], time.perf_counter())

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.lost += 1
        if self in self._crowd.free:
            self._crowd.free.remove(self)


async def _run(target: Target, connections: int, seconds: float, rate: float | None) -> Seen:
    crowd, loop = Crowd(target), asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: Line(crowd), "127.0.0.1", target.port)
    lines, started = list(crowd.free), time.perf_counter()
    if rate is None:
        crowd.closed_loop_until = started + seconds
        for line in [crowd.free.pop() for _ in lines]:
            line.send(started)
        await asyncio.sleep(seconds)
    else:
        await _arrive(crowd, started, seconds, rate)
    took = time.perf_counter() - started
    answered = len(crowd.latencies)
    while len(crowd.free) + crowd.lost < len(lines) and time.perf_counter() < started + seconds + GRACE:
        await asyncio.sleep(0.01)
    errors = len(lines) - len(crowd.free) + len(crowd.due)
    for line in lines:
        line.transport.abort()
    ordered = sorted(crowd.latencies)
    p50, p99, p999 = (1000 * percentile(ordered, share) for share in (0.5, 0.99, 0.999))
    late = 1000 * percentile(sorted(crowd.lateness), 0.99)
    return Seen(answered, crowd.refused, errors, took, p50, p99, p999, late)


async def _arrive(crowd: Crowd, started: float, seconds: float, rate: float) -> None:
    """Let requests become due at a constant rate, whatever became of those before."""
    sent, total = 0, int(seconds * rate)
    while sent < total:
        await asyncio.sleep(TICK)
        now = time.perf_counter()
        arrived = min(total, int((now - started) * rate))
        if sent < arrived:
            crowd.lateness.append(now - started - sent / rate)
        for number in range(sent, arrived):
            due = started + number / rate
            if crowd.free:
                crowd.free.pop().send(due)
            else:
                crowd.due.append(due)
        sent = arrived


def run(target: Target, connections: int, seconds: float, rate: float | None = None) -> Seen:
    """Send for so many seconds and wait for the last answers; `rate`: requests/s, None = as fast as answers come."""
    gc.collect()
    gc.disable()  # its pauses would be counted as the server's
    try:
        return uvloop.run(_run(target, connections, seconds, rate))
    finally:
        gc.enable()
