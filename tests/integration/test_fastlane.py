"""The fast lane and the ASGI way answer alike, whatever is sent: status, headers, body, and what it left in Redis."""

import http.client
import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from gatekeeper.http.auth import hash_key
from tests.integration.door import FrontDoor
from tests.integration.test_http import token
from tests.lua.sale import SALE, Sale

PATH = f"/v1/sales/{SALE}/reservations"
CART = {"buyer": "bob", "items": [{"sku": "A", "quantity": 1}]}
QUIET = 0.15
"""Seconds without a byte after which nothing more is expected."""


class Ways:
    """Two front doors, one without the fast lane, each over a database of its own in one Redis."""

    def __init__(self, url: str) -> None:
        self.urls = [f"{url.rpartition('/')[0]}/{database}" for database in (0, 1)]
        self.doors = [FrontDoor(self.urls[0]), FrontDoor(self.urls[1], "--no-fast-lane")]
        for door in self.doors:
            door.wait("/livez")

    def reset(self) -> None:
        for url in self.urls:
            sale = Sale(url)
            sale.plain.flushdb()
            sale.create(stock="A:5 B:1 U:-", per_buyer=4)
            sale.control("pause_sku", sku="B")
            sale.close()

    def state(self, url: str) -> dict[str, Any]:
        sale = Sale(url)
        found = {key: value for key, value in sale.snapshot().items() if ":due" not in key}
        sale.close()
        return json.loads(normal(json.dumps(found, default=str, sort_keys=True).encode()))

    def same(self, *chunks: bytes, pause: float = 0.0) -> bytes:
        """Send the chunks both ways; returns the answer, which must be the same, as must be what it left."""
        with ThreadPoolExecutor(len(self.doors)) as both:
            sent = [both.submit(exchange, door.port, chunks, pause) for door in self.doors]
            answers = [normal(answer.result()) for answer in sent]
        assert answers[0] == answers[1]
        states = [self.state(url) for url in self.urls]
        assert states[0] == states[1]
        return answers[0]

    def close(self) -> None:
        assert [door.stop() for door in self.doors] == [0, 0]


def exchange(port: int, chunks: tuple[bytes, ...], pause: float = 0.0) -> bytes:
    """Send chunks `pause` seconds apart, return all that comes until it is quiet or closed."""
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        for i, chunk in enumerate(chunks):
            if i:
                time.sleep(pause)
            try:
                client.sendall(chunk)
            except OSError:
                break
        client.settimeout(QUIET)
        received = b""
        while True:
            try:
                data = client.recv(65536)
            except TimeoutError:
                return received
            except OSError:
                return received + b"<reset>"
            if not data:
                return received + b"<closed>"
            received += data


def normal(answer: bytes) -> bytes:
    """An answer without what differs from moment to moment."""
    for pattern, calm in (
        (rb"date: [^\r]+", b"date: now"), (rb"\d{4}-\d\d-\d\dT[\d:.]+Z", b"then"), (rb"[0-9a-f]{40}", b"replid"),
        (rb"[0-9a-f]{32}", b"id"), (rb"(?<![0-9a-f])[0-9a-f]{20}(?![0-9a-f])", b"made"),
        (rb"(?<!\d)\d{13}(?!\d)", b"ms"),
        (rb"(idempotency[-_]key\"?: ?\"?)[\w-]{22}(?![\w-])", rb"\1made"), (rb"\\n[\w-]{22}\\n", rb"\\nmade\\n"),
    ):  # fmt: skip
        answer = re.sub(pattern, calm, answer)
    return answer


def request(
    body: bytes | object = CART, *, method: str = "POST", path: str = PATH, version: str = "1.1", **headers: str | None
) -> bytes:
    """A request with an Authorization, a Content-Type and a Content-Length unless given otherwise (None: left out)."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    usual = {
        "host": "x", "authorization": "Bearer shop", "content-type": "application/json", "x-request-id": "r1",
        "idempotency-key": "k1", "content-length": str(len(data)),
    }  # fmt: skip
    every = usual | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/{version}", *(f"{n}: {v}" for n, v in every.items() if v is not None)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


@pytest.fixture(scope="module")
def both(valkey_url: str) -> Iterator[Ways]:
    ways = Ways(valkey_url)
    yield ways
    ways.close()
    for url in ways.urls:
        with redis.Redis.from_url(url) as client:
            client.flushdb()


@pytest.fixture
def ways(both: Ways, redis_url: str) -> Ways:
    both.reset()
    return both


BODIES: list[bytes | object] = [
    CART, {**CART, "reference": "order 7"}, {"buyer": "bób", "items": [{"sku": "A", "quantity": 2}]},
    {"buyer": "bob", "items": [{"sku": "A", "quantity": 1}, {"sku": "U", "quantity": 3}, {"sku": "A", "quantity": 1}]},
    {"buyer": "bob", "items": [{"sku": "A", "quantity": 5}]}, {"buyer": "bob", "items": [{"sku": "A", "quantity": 9}]},
    {"buyer": "bob", "items": [{"sku": "B", "quantity": 1}]}, {"buyer": "bob", "items": [{"sku": "Z", "quantity": 1}]},
    {"buyer": "", "items": []}, {"buyer": 7, "items": [{"sku": "A", "quantity": 0}]}, {"items": [{"sku": "A b"}]},
    {**CART, "more": 1}, [], None, b"", b"{", b"\xff", b"nul", b"[" * 5000, b'{"buyer":"a","buyer":"b","items":[]}',
    b'{"buyer":"b\\u0000","items":[]}', b" " * 16_385, b"x" * 20_000, {"buyer": "x" * 200, "items": [{"sku": "A"}]},
    {"buyer": "bob", "items": [{"sku": "A", "quantity": 1.0}]},
    {"buyer": "bob", "items": [{"sku": "A", "quantity": True}]},
    {"buyer": "bob", "items": [{"sku": f"S{i}", "quantity": 1} for i in range(21)]},
    b'{"buyer":"bob","items":[{"sku":"A","quantity":1e2}]}', b'{"buyer":"bob","items":[{"sku":"A","quantity":NaN}]}',
]  # fmt: skip
HEADERS: list[dict[str, str | None]] = [
    {}, {"idempotency_key": None}, {"idempotency_key": ""}, {"idempotency_key": "a b"}, {"idempotency_key": "x" * 129},
    {"authorization": None}, {"authorization": "Bearer no"}, {"authorization": "Basic shop"},
    {"authorization": "bearer shop"}, {"authorization": "Bearer admin"}, {"authorization": "Bearer " + "x" * 5000},
    {"content_type": None}, {"content_type": "text/plain"}, {"content_type": "Application/JSON; charset=utf-8"},
    {"content_length": "99999"}, {"content_length": "-1"}, {"content_length": "1_0"}, {"x_request_id": "bad id"},
    {"x_request_id": None}, {"expect": "100-continue"}, {"connection": "close"}, {"connection": "keep-alive"},
    {"upgrade": "websocket", "connection": "upgrade"}, {"x-long": "y" * 40_000},
    {"x-long": "y" * 20_000}, {"host": None},
    {f"x-{i}": "1" for i in range(120)}, {f"x-{i}": "1" for i in range(90)}, {"content_encoding": "gzip"},
]  # fmt: skip
METHODS = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "post", "PO ST")
LINES: list[dict[str, str]] = [
    *({"method": method} for method in METHODS),
    *({"path": path} for path in (
        PATH + "/", PATH + "?x=1", PATH + "#x", "/v1/sales//reservations", "/v1/sales/a/b/reservations",
        "/v1/sales/NO/reservations", "/v1/sales/unknown/reservations", "/v1/sales/%6aackets/reservations", "*",
        "//v1/sales/jackets/reservations", "/V1/sales/jackets/reservations", f"http://x{PATH}", PATH + "/x",
        "/v1/sales/j\u00e4ckets/reservations", "/livez",
    )),
    *({"version": version} for version in ("1.0", "0.9", "2.0", "1.2")),
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body)[:40])
def test_every_body_is_answered_alike(ways: Ways, body: Any) -> None:
    assert ways.same(request(body))


@pytest.mark.parametrize("headers", HEADERS, ids=lambda headers: repr(headers)[:40])
def test_every_header_is_answered_alike(ways: Ways, headers: dict[str, Any]) -> None:
    ways.same(request(**headers))


@pytest.mark.parametrize("line", LINES, ids=repr)
def test_every_request_line_is_answered_alike(ways: Ways, line: dict[str, Any]) -> None:
    ways.same(request(**line))


# The same once more on a connection whose head is known by then, and which goes on afterwards.
AFTER: list[bytes] = [
    *(request(body) for body in BODIES), *(request(**headers) for headers in HEADERS),
    *(request(**line) for line in LINES), request(authorization="Bearer " + token()),
    request(content_length="+56"), request().replace(b"\r\n", b"\n"),
    request().replace(b"idempotency-key: k1", b"idempotency-key:k1"), request() + b"\r\n", b"\r\n" + request(),
    request().replace(b"idempotency-key: k1", b"idempotency-key: k1 "), request()[:-1], request()[:80], request()[80:],
    request() + request(idempotency_key="k2"), request() + request(idempotency_key="k2")[:70],
    request(x_request_id="\u00e4"), request(host="y"), request(content_length="056"), request(content_length="57"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(0, len(AFTER), 8))
def test_a_connection_that_knows_the_head_answers_alike(ways: Ways, number: int) -> None:
    for sent in AFTER[number : number + 8]:
        first, again, last = (request(idempotency_key=key) for key in ("k0", "k8", "k9"))
        answer = ways.same(first, again, sent, last, pause=0.03)
        assert answer.startswith((b"HTTP/1.1 201", b"HTTP/1.1 200"))


def test_a_key_that_is_taken_away_lets_nobody_in_who_came_with_it_before(redis_url: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"old:shop:{hash_key('shop')}\nnew:shop:{hash_key('other')}\n")
    sale = Sale(redis_url)
    sale.create(stock="A:9")
    sale.close()
    door = FrontDoor(redis_url, GATEKEEPER_KEYS="", GATEKEEPER_KEYS_FILE=str(keys)).wait()
    try:
        with socket.create_connection(("127.0.0.1", door.port), 5) as client:

            def status(**headers: str) -> bytes:
                client.sendall(request(**headers))
                return client.recv(65536)[9:12]

            assert [status(idempotency_key=f"k{i}") for i in range(3)] == [b"201"] * 3
            keys.write_text(f"new:shop:{hash_key('other')}\n")
            exchange(door.port, (request(authorization="Bearer never heard of"),))  # has the file read again
            assert status(idempotency_key="k4") == b"401"
            assert status(idempotency_key="k5", authorization="Bearer other") == b"201"
    finally:
        assert door.stop() == 0


@pytest.mark.parametrize("who", [token(), token(sub="eve"), token(aud="other"), token(exp=1)], ids=range(4))
def test_buyer_tokens_are_judged_alike(ways: Ways, who: str) -> None:
    for key in ("k1", None):
        ways.same(request(authorization=f"Bearer {who}", idempotency_key=key))


def test_repeated_headers_are_refused_alike(ways: Ways) -> None:
    for line in (b"authorization: Bearer shop", b"content-length: 3", b"idempotency-key: k2", b"content-type: a/b"):
        head, body = request().split(b"\r\n\r\n")
        ways.same(head + b"\r\n" + line + b"\r\n\r\n" + body)


def test_chunked_bodies_are_answered_alike(ways: Ways) -> None:
    data = json.dumps(CART).encode()
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)
    head = request(b"", content_length=None, transfer_encoding="chunked")
    assert b"201 Created" in ways.same(head + chunks)
    ways.same(head, chunks[:7], chunks[7:], pause=0.02)
    ways.same(request(b"", content_length="5", transfer_encoding="chunked") + chunks)


@pytest.mark.parametrize("sent", [1, 20, 60, 150, 190, -30, -1])
def test_a_request_in_two_pieces_is_answered_as_if_it_were_one(ways: Ways, sent: int) -> None:
    whole = request()
    assert b"201 Created" in ways.same(whole[:sent], whole[sent:], pause=0.03)


def test_a_request_cut_anywhere_is_not_answered_and_leaves_nothing(ways: Ways) -> None:
    whole = request()
    for end in range(0, len(whole), 17):
        ways.same(whole[:end])
    for url in ways.urls:
        with redis.Redis.from_url(url) as client:
            assert client.hlen(f"gk1:{{{SALE}}}:reservations") == 0


def test_connections_are_kept_alive_alike(ways: Ways) -> None:
    requests = [request(idempotency_key=f"k{i}") for i in range(3)]
    answer = ways.same(*requests, pause=0.03)
    assert answer.count(b"201 Created") == 3 and not answer.endswith(b"<closed>")
    assert ways.same(requests[0], request(method="GET", path="/livez"), requests[0], pause=0.03).count(b"200 OK") == 3


def test_pipelined_requests_are_answered_in_order(ways: Ways) -> None:
    kinds = {
        "buy": request(), "again": request(), "bad": request(b"{"),
        "look": request(b"", method="GET", path=PATH + "?buyer=bob"),
        "probe": request(b"", method="GET", path="/livez"), "none": request(authorization=None),
    }  # fmt: skip
    for names in itertools.product(kinds, repeat=2):
        ways.same(b"".join(kinds[name] for name in names))
    answer = ways.same(b"".join(request(idempotency_key=f"p{i}") for i in range(8)))
    assert answer.count(b"HTTP/1.1 ") == 8


def test_after_a_refusal_that_closes_nothing_more_is_read(ways: Ways) -> None:
    answer = ways.same(request(content_type="text/plain") + request())
    assert answer.count(b"HTTP/1.1 ") == 1 and answer.endswith(b"<closed>")


def test_a_body_that_no_length_announces_is_not_taken_for_one(ways: Ways) -> None:
    for door in ways.doors:  # uvicorn answers the garbage behind it first, the fast lane the request
        assert exchange(door.port, (request(content_length=None),)).startswith(b"HTTP/1.1 400 ")


def test_garbage_is_answered_alike(ways: Ways) -> None:
    for data in (b"\0" * 100, b"GET\r\n\r\n", b"hello\r\n\r\n", b"POST " + PATH.encode(), request()[5:], b"\r\n" * 5):
        ways.same(data)


@pytest.mark.parametrize("fast", [0, 1], ids=["fast lane", "asgi"])
def test_buyers_who_leave_harm_nobody_and_their_purchase_is_decided(ways: Ways, fast: int) -> None:
    door = ways.doors[fast]
    for i in range(20):
        with socket.create_connection(("127.0.0.1", door.port), 5) as client:
            client.sendall(
                request({"buyer": f"gone-{i}", "items": [{"sku": "U", "quantity": 1}]}, idempotency_key=f"g{i}")
            )
    found = [door.buy(SALE, ("U", 1), buyer=f"gone-{i}", key=f"g{i}").status for i in range(20)]
    assert set(found) <= {200, 201}
    with redis.Redis.from_url(ways.urls[fast]) as client:
        assert client.hlen(f"gk1:{{{SALE}}}:reservations") == 20


@pytest.mark.parametrize("words", [(), ("--no-fast-lane",)], ids=["fast lane", "asgi"])
def test_a_stopping_door_answers_what_is_in_flight(redis_url: str, words: tuple[str, ...]) -> None:
    sale = Sale(redis_url)
    sale.create(stock="A:1000000", backlog_limit=1_000_000)
    door = FrontDoor(redis_url, *words).wait()
    answers: list[tuple[int, bytes]] = []

    def click(number: int) -> None:
        client = http.client.HTTPConnection("127.0.0.1", door.port, timeout=5)
        client.connect()
        for i in itertools.count():
            key = f"s{number}-{i}"
            headers = {"Authorization": "Bearer shop", "Content-Type": "application/json", "Idempotency-Key": key}
            try:
                client.request("POST", PATH, json.dumps({**CART, "buyer": key}), headers)
                answer = client.getresponse()
                answers.append((answer.status, answer.read()))
            except (OSError, http.client.HTTPException):
                client.close()
                return
            client.auto_open = 0  # one connection only: the next door would be another

    threads = [threading.Thread(target=click, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    assert door.stop() == 0
    for thread in threads:
        thread.join(10)
    assert {status for status, _ in answers} == {201}, answers[-1]
    assert sale.plain.hlen(f"gk1:{{{SALE}}}:reservations") == len(answers)  # whoever was admitted was told so
    sale.close()


# ── limits, on both ways ─────────────────────────────────────────────────────────────────────────────────────────────


def test_heads_that_are_too_large_or_have_too_many_headers_are_refused(ways: Ways) -> None:
    assert b"431 " in ways.same(request(**{f"x-{i}": "1" for i in range(120)}))
    assert b"headers_too_large" in ways.same(request(x_long="y" * 40_000))
    answer = ways.same(b"POST " + PATH.encode() + b" HTTP/1.1\r\nx: ", *[b"y" * 8000] * 8, pause=0.01)
    assert b"431 " in answer and answer.endswith((b"<closed>", b"<reset>"))


@pytest.mark.parametrize("fast", [0, 1], ids=["fast lane", "asgi"])
def test_silent_and_trickling_connections_are_ended(ways: Ways, fast: int) -> None:
    port = ways.doors[fast].port
    silent = socket.create_connection(("127.0.0.1", port), 5)
    trickling = socket.create_connection(("127.0.0.1", port), 5)
    idle = socket.create_connection(("127.0.0.1", port), 5)
    idle.sendall(request())
    started, ends = time.monotonic(), dict[str, float]()
    data = {"silent": b"", "trickling": b"", "idle": b""}
    sockets = {"silent": silent, "trickling": trickling, "idle": idle}
    for client in sockets.values():
        client.settimeout(0.05)
    head = iter(request())
    while len(ends) < 3 and time.monotonic() - started < 25:
        if "trickling" not in ends:
            try:
                trickling.sendall(bytes([next(head)]))
            except OSError:
                pass
        for name, client in sockets.items():
            if name in ends:
                continue
            try:
                got = client.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                got = b""
            data[name] += got
            if not got:
                ends[name] = time.monotonic() - started
        time.sleep(0.1)
    for client in sockets.values():
        client.close()
    assert 4 < ends["silent"] < 9 and 4 < ends["idle"] < 9 and 9 < ends["trickling"] < 14
    assert b"201 Created" in data["idle"] and b"408 " in data["trickling"]
