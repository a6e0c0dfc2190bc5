"""The front door's own work: its Python in this one process, with connections and a Redis that are only pretended.

`python -m bench.door ROUNDS` prints JSON: CPU microseconds per purchase, and of steps of one. What the kernel, Redis
and the way to it cost is not in them.
"""

import asyncio
import gc
import json
import sys
import time
import timeit
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

import uvicorn
import uvloop
from uvicorn.server import ServerState

from bench.target import sku_names
from gatekeeper import metrics
from gatekeeper.http.app import FrontDoor, create_app
from gatekeeper.http.auth import new_key
from gatekeeper.http.fastlane import FastLane
from gatekeeper.http.serve import calm_collector
from gatekeeper.http.validation import parse_cart
from gatekeeper.http.visit import Visit
from gatekeeper.model import Purchase, reservation_id
from gatekeeper.replies import decisions
from gatekeeper.settings import Settings

CONNECTIONS = 128
STEPS = 100
"""Requests of each connection in a round; all send, then all wait for their answers."""
CALLS = 5_000
"""Of a step in a round."""
SALE = "bench"
(SKU,) = sku_names(1)
NOW, EXPIRES = 1_700_000_000_000, 1_700_000_600_000

Part = dict[str, Any]


class Memory:
    """Stands for Redis: answers `admit` at once, and the same to everybody."""

    sold_out = False

    async def execute_command(self, command: str, sha: str, keys: int, *rest: str | int) -> list[Any]:
        """Decide (id, particulars) after the keys and the epoch."""
        await asyncio.sleep(0)
        purchases = (len(rest) - keys - 1) // 2
        return [b"ok", 1, NOW, EXPIRES, *(self._decision() for _ in range(purchases))]

    def _decision(self) -> Any:
        return [b"sold_out", SKU.encode(), 1, 0, 1] if self.sold_out else b"admitted"


class Wire(asyncio.Transport):
    """A connection whose client takes everything; `answers` counts what all of them were sent."""

    answers = 0

    def write(self, data: Any) -> None:
        Wire.answers += 1

    def is_closing(self) -> bool:
        return False


def run(rounds: int) -> Part:
    """Measure everything, the best of so many rounds."""
    secret, hashed = new_key("bench", "shop")
    settings = Settings(redis_url="redis://127.0.0.1:1", keys=hashed)
    calm_collector()
    return uvloop.run(_measure(settings, secret, rounds))


async def _measure(settings: Settings, secret: str, rounds: int) -> Part:
    memory: Any = Memory()
    app = create_app(settings, memory)
    app.desk.closed = ""
    lanes, requests = _lanes(app), partial(_requests, secret, count())
    best = dict.fromkeys(("admitted", "sold_out_keys", "sold_out_no_keys"), float("inf"))
    for _ in range(rounds):
        for name in best:  # in turns: whatever else the machine does hits all of them
            memory.sold_out = name != "admitted"
            best[name] = min(best[name], await _round(lanes, requests(name != "sold_out_no_keys")))
    return {
        "connections": CONNECTIONS,
        **{f"{name}_us": us for name, us in best.items()},
        "steps_us": {name: _best(call, rounds) for name, call in _steps(app, lanes[0], secret).items()},
    }


def _lanes(app: FrontDoor) -> list[FastLane]:
    config = uvicorn.Config(app, http=FastLane, log_config=None, lifespan="off", ws="none", proxy_headers=False)
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"Sat, 21 Nov 2026 14:10:53 GMT")]
    lanes = [FastLane(config=config, server_state=state, app_state={}) for _ in range(CONNECTIONS)]
    for lane in lanes:
        lane.connection_made(Wire())
    return lanes


def _requests(secret: str, numbers: Iterator[int], keyed: bool) -> list[bytes]:
    return [_request(secret, next(numbers), keyed) for _ in range(STEPS * CONNECTIONS)]


def _request(secret: str, number: int, keyed: bool) -> bytes:
    body = f'{{"buyer":"b{number:09}","items":[{{"sku":"{SKU}","quantity":1}}]}}'
    key = f"Idempotency-Key: bench-1-abcdef0123-{number:09}\r\n" if keyed else ""
    head = f"POST /v1/sales/{SALE}/reservations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Authorization: Bearer {secret}\r\nContent-Length: {len(body)}\r\n{key}\r\n{body}".encode()


async def _round(lanes: list[FastLane], requests: list[bytes]) -> float:
    """CPU microseconds of a purchase."""
    before, started = Wire.answers, time.process_time()
    for start in range(0, len(requests), len(lanes)):
        step = requests[start : start + len(lanes)]
        wanted = Wire.answers + len(lanes)
        for lane, request in zip(lanes, step, strict=True):
            lane.data_received(request)
        while Wire.answers < wanted:
            await asyncio.sleep(0)
    spent = time.process_time() - started
    assert Wire.answers - before == len(requests)
    metrics.flush()
    return spent / len(requests) * 1e6


def _steps(app: FrontDoor, lane: FastLane, secret: str) -> dict[str, Callable[[], object]]:
    """What a purchase goes through, by name; not all of it."""
    request = _request(secret, 0, keyed=True)
    lane.data_received(request)
    known = lane._known
    assert known, "the head of a plain purchase is not learnt"
    body = request.partition(b"\r\n\r\n")[2]
    lines = request.removesuffix(b"\r\n\r\n" + body).split(b"\r\n")[1:]
    headers = [(name.lower(), value) for name, _, value in (line.partition(b": ") for line in lines)]
    visit, cart = Visit(SALE, dict(headers)), parse_cart(body)
    app.desk.check(visit, headers)
    purchase = Purchase.of(SALE, cart.buyer, visit.key, cart.items)
    (decision,) = decisions([purchase], NOW, EXPIRES, [b"admitted"])
    return {
        "read a known head": partial(known.read, request),
        "judge the headers of another": partial(app.desk.check, visit, headers),
        "read the body": partial(parse_cart, body),
        "make the reservation's id": partial(reservation_id, SALE, cart.buyer, visit.key),
        "translate Redis's decision": partial(decisions, [purchase], NOW, EXPIRES, [b"admitted"]),
        "render the answer": partial(app.desk.answer, visit, decision),
    }


def _best(call: Callable[[], object], rounds: int) -> float:
    return min(timeit.repeat(call, number=CALLS, repeat=rounds)) / CALLS * 1e6


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1])) | {"collector": gc.get_threshold()}))
