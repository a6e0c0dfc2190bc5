"""The door's Python, without any engine: the real scripts in fakeredis, the real routes in this process."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from hashlib import sha1
from typing import Any

import fakeredis
import pytest

import lua
from gatekeeper.gate import Gate
from gatekeeper.http.app import create_app
from gatekeeper.http.auth import hash_key
from gatekeeper.settings import Settings
from lua import Script
from tests.lua.sale import SALE

PATH = f"/v1/sales/{SALE}/reservations"
REPLICATION = "redis.call('INFO', 'replication')"


@pytest.fixture(autouse=True)
def scripts_without_info(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """fakeredis has no INFO: here, every Redis is the same one, and its settings are not looked at."""

    async def no_problems(*args: object) -> list[str]:
        return []

    monkeypatch.setattr("gatekeeper.http.door.check_redis", no_problems)
    for name, script in list(lua.SCRIPTS.items()):
        text = script.text.replace(REPLICATION, "'master_replid:fa5e'")
        assert text != script.text
        monkeypatch.setitem(lua.SCRIPTS, name, Script(name, text, sha1(text.encode()).hexdigest()))
    yield


class App:
    """The ASGI app, called as a server calls it."""

    def __init__(self) -> None:
        self.redis = fakeredis.FakeAsyncRedis()
        self.gate = Gate(self.redis)
        keys = f"shop:shop:{hash_key('shop')}"
        self.app = create_app(Settings(redis_url="redis://fake", keys=keys, durability="unverified"), self.redis)

    async def send(self, body: bytes, *chunks: bytes, **headers: str) -> tuple[int, dict[str, str], Any]:
        sent: list[dict[str, Any]] = []
        given = {"authorization": "Bearer shop", "content-type": "application/json", **headers}
        parts = [body, *chunks]
        messages = [
            {"type": "http.request", "body": part, "more_body": i + 1 < len(parts)} for i, part in enumerate(parts)
        ]

        async def receive() -> dict[str, Any]:
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items()]
        scope = {"type": "http", "method": "POST", "path": PATH, "headers": raw, "query_string": b"", "root_path": ""}
        await self.app(scope, receive, send)
        start, content = sent
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        return start["status"], found, json.loads(content["body"])


def told(story: Callable[[App], Awaitable[None]]) -> None:
    """Run a story with an open sale of 3 units behind an app that has started."""

    async def main() -> None:
        app = App()
        await app.gate.load_scripts()
        await app.gate.publish_catalogue([SALE])
        terms = {"opens_at": 0, "closes_at": 0, "per_buyer": 0, "hold_ms": 60_000, "backlog_limit": 100}
        await app.gate.control(SALE, "create", actor="test", **terms)
        await app.gate.grant(SALE, 1, [("A", 3, True)], actor="test")
        await app.gate.control(SALE, "open", actor="test")
        lifespan: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        running = asyncio.create_task(app.app({"type": "lifespan"}, lifespan.get, answers.put))
        lifespan.put_nowait({"type": "lifespan.startup"})
        assert await answers.get() == {"type": "lifespan.startup.complete"}
        try:
            await story(app)
        finally:
            lifespan.put_nowait({"type": "lifespan.shutdown"})
            await running
            await app.redis.aclose()

    asyncio.run(main())


BODY = b'{"buyer":"bob","items":[{"sku":"A","quantity":2}]}'


def test_a_purchase_a_retry_and_a_refusal() -> None:
    async def story(app: App) -> None:
        made = await app.send(BODY, idempotency_key="k1")
        again = await app.send(BODY, idempotency_key="k1")
        other = await app.send(BODY, idempotency_key="k2")
        assert (made[0], again[0], other[0]) == (201, 200, 409)
        assert again[2] == made[2] and again[1]["idempotent-replayed"] == "true"
        assert other[2]["items"] == [{"sku": "A", "requested": 2, "available": 1, "held": 2}]

    told(story)


def test_a_body_may_come_in_pieces() -> None:
    async def story(app: App) -> None:
        assert (await app.send(BODY[:10], BODY[10:30], BODY[30:]))[0] == 201

    told(story)


def test_pieces_that_add_up_to_too_much_are_refused() -> None:
    async def story(app: App) -> None:
        status, _, problem = await app.send(b"x" * 10_000, b"x" * 10_000)
        assert (status, problem["code"]) == (413, "payload_too_large")

    told(story)


def test_purchases_that_arrive_together_are_decided_together_and_exactly() -> None:
    async def story(app: App) -> None:
        one = BODY.replace(b"2", b"1")
        answers = await asyncio.gather(*(app.send(one, idempotency_key=f"k{i}") for i in range(50)))
        assert sorted(status for status, _, _ in answers) == [201] * 3 + [409] * 47

    told(story)


def test_scripts_that_redis_lost_are_not_loaded_by_a_door() -> None:
    async def story(app: App) -> None:
        await app.redis.script_flush()
        status, headers, problem = await app.send(BODY, idempotency_key="k1")
        assert (status, problem["code"], headers["retry-after"]) == (503, "sale_fenced", "1")
        assert problem["idempotency_key"] == headers["idempotency-key"] == "k1"
        assert not await app.gate.scripts_loaded()

    told(story)
