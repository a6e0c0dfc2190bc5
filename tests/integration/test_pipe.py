"""One connection for all calls: answers in their order, whatever becomes of Redis, of callers and of the connection."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis import exceptions as rex

from gatekeeper.batcher import Batcher
from gatekeeper.embedded import start_valkey
from gatekeeper.embedded.valkey import Valkey
from gatekeeper.errors import Overloaded
from gatekeeper.gate import Gate, connect
from gatekeeper.model import Decision, Purchase
from gatekeeper.outcomes import Outcome
from gatekeeper.pipe import MAX_WAITING, Pipe

TIMEOUT = 0.5
Story = Callable[[Pipe], Awaitable[None]]


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    """One that a test may stop and kill."""
    with start_valkey(tmp_path / "valkey") as valkey:
        yield valkey


def told(url: str, story: Story) -> None:
    async def main() -> None:
        client = connect(url, timeout=TIMEOUT)
        pipe = Pipe(client.connection_pool, timeout=TIMEOUT)
        try:
            await story(pipe)
        finally:
            await pipe.aclose()
            await client.aclose()

    asyncio.run(main())


async def results(*calls: Awaitable[Any]) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


def test_every_call_gets_its_own_answer_and_an_error_is_one_callers_alone(redis_url: str) -> None:
    async def story(pipe: Pipe) -> None:
        answers = await results(
            pipe.call("SET", "a", 1), pipe.call("GET", "a"), pipe.call("EVALSHA", "f" * 40, 0),
            pipe.call("LPUSH", "a", 1),
            pipe.call("EVAL", "return {1, 'two', {3}, false}", 0), pipe.call("GET", "none"), pipe.call("GET", "\u00e4"),
        )  # fmt: skip
        assert answers[:2] == [b"OK", b"1"] and answers[4:] == [[1, b"two", [3], None], None, None]
        assert type(answers[2]) is rex.NoScriptError and type(answers[3]) is rex.ResponseError
        assert str(answers[3]).startswith("WRONGTYPE ")

    told(redis_url, story)


def test_calls_made_in_the_same_moment_leave_in_one_round_trip_over_one_connection(valkey: Valkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:

        async def story(pipe: Pipe) -> None:
            await pipe.call("PING")
            connections = int(client.info("clients")["connected_clients"])
            before = client.info("stats")
            assert await results(*(pipe.call("ECHO", number) for number in range(100))) == [
                b"%d" % n for n in range(100)
            ]
            after = client.info("stats")
            reads = after["total_reads_processed"] - before["total_reads_processed"]
            assert after["total_commands_processed"] - before["total_commands_processed"] == 101
            assert reads <= 5, reads  # with this client's own
            assert int(client.info("clients")["connected_clients"]) == connections

        told(valkey.url, story)


def test_purchases_of_several_sales_leave_in_one_round_trip(valkey: Valkey) -> None:
    names = [f"sale-{number}" for number in range(20)]
    terms = {"opens_at": 0, "closes_at": 0, "per_buyer": 0, "hold_ms": 60_000, "backlog_limit": 1000}
    with redis.Redis.from_url(valkey.url) as client:

        async def story(pipe: Pipe) -> None:
            own = connect(valkey.url, timeout=5)
            gate = Gate(own, pipe)
            await gate.load_scripts()
            for name in names:
                await gate.control(name, "create", actor="test", **terms)
                await gate.grant(name, 1, [("A", 3, True)], actor="test")
                await gate.control(name, "open", actor="test")
            batcher, decided = Batcher(gate, max_queue=1000), list[Decision | Exception]()
            before = client.info("stats")["total_reads_processed"]
            for number, name in enumerate(5 * names):
                batcher.submit(Purchase.of(name, f"b{number}", "k", [("A", 1)]), decided.append)
            await batcher.drain()
            reads = client.info("stats")["total_reads_processed"] - before
            outcomes = [decision.outcome for decision in decided if isinstance(decision, Decision)]
            assert sorted(outcomes) == [Outcome.ADMITTED] * 60 + [Outcome.SOLD_OUT] * 40
            assert reads <= 4, reads  # with this client's own; a read of its own for each sale would be 20
            await own.aclose()

        told(valkey.url, story)


def test_who_comes_while_the_connection_is_opened_waits_for_the_same_one(valkey: Valkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:

        async def story(pipe: Pipe) -> None:
            before = client.info("stats")["total_connections_received"]
            assert set(await results(*(pipe.call("PING") for _ in range(50)))) == {b"PONG"}
            assert client.info("stats")["total_connections_received"] == before + 1

        told(valkey.url, story)


def test_the_urls_database_and_password_are_used(valkey: Valkey) -> None:
    with redis.Redis.from_url(valkey.url) as client:
        client.config_set("requirepass", "a secret")

    async def story(pipe: Pipe) -> None:
        assert await pipe.call("SET", "where", "here") == b"OK"

    told(f"redis://:a%20secret@127.0.0.1:{valkey.port}/3", story)
    with redis.Redis(port=valkey.port, db=3, password="a secret") as client:
        assert client.get("where") == b"here"

    async def refused(pipe: Pipe) -> None:
        with pytest.raises(rex.AuthenticationError):
            await pipe.call("PING")

    told(valkey.url, refused)


def test_a_caller_that_leaves_takes_no_answer_of_anothers(redis_url: str) -> None:
    async def story(pipe: Pipe) -> None:
        await pipe.call("PING")
        calls = [asyncio.create_task(pipe.call("ECHO", number)) for number in range(20)]
        await asyncio.sleep(0)
        for call in calls[::3]:
            call.cancel()
        answers = await results(*calls)
        for number, answer in enumerate(answers):
            assert answer == b"%d" % number or (number % 3 == 0 and isinstance(answer, asyncio.CancelledError))

    told(redis_url, story)


def test_behind_a_redis_that_hangs_all_are_told_in_time_and_no_late_answer_is_taken_for_anothers(
    valkey: Valkey,
) -> None:
    async def story(pipe: Pipe) -> None:
        await pipe.call("PING")
        valkey.process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        try:
            answers = await results(*(pipe.call("ECHO", number) for number in range(10)))
            assert {type(answer) for answer in answers} == {rex.TimeoutError}
            assert TIMEOUT <= time.monotonic() - started < 2 * TIMEOUT
        finally:
            valkey.process.send_signal(signal.SIGCONT)
        assert await pipe.call("ECHO", "later") == b"later"

    told(valkey.url, story)


def test_past_its_bound_a_call_is_refused_at_once_and_not_sent(valkey: Valkey) -> None:
    async def story(pipe: Pipe) -> None:
        await pipe.call("PING")
        valkey.process.send_signal(signal.SIGSTOP)
        try:
            calls = [asyncio.create_task(pipe.call("INCR", "count")) for _ in range(MAX_WAITING)]
            await asyncio.sleep(0.01)
            with pytest.raises(Overloaded):
                await pipe.call("INCR", "count")
        finally:
            valkey.process.send_signal(signal.SIGCONT)
        assert await results(*calls) == list(range(1, MAX_WAITING + 1))
        assert await pipe.call("GET", "count") == b"%d" % MAX_WAITING

    told(valkey.url, story)


def test_a_redis_that_dies_is_noticed_at_once_and_used_again_at_the_first_call(tmp_path: Path) -> None:
    async def story(pipe: Pipe) -> None:
        await pipe.call("PING")
        valkey.process.send_signal(signal.SIGSTOP)
        calls = [asyncio.create_task(pipe.call("ECHO", number)) for number in range(5)]
        await asyncio.sleep(0.05)
        valkey.process.kill()
        valkey.process.wait()
        started = time.monotonic()
        assert {type(answer) for answer in await results(*calls)} <= {rex.ConnectionError}
        answers = await results(*(pipe.call("PING") for _ in range(3)))
        assert {type(answer) for answer in answers} == {rex.ConnectionError}
        assert time.monotonic() - started < TIMEOUT
        with start_valkey(tmp_path / "valkey", port=valkey.port):
            assert await pipe.call("PING") == b"PONG"

    valkey = start_valkey(tmp_path / "valkey")
    with valkey:
        told(valkey.url, story)


async def answered(client: asyncio.StreamReader, answers: asyncio.StreamWriter, *, every: float, steps: int) -> None:
    """Be a Redis that takes `every` seconds for an answer, and closes after so many."""
    while steps and (data := await client.read(65536)):
        await asyncio.sleep(every)
        answers.write(b"%1\r\n+proto\r\n:3\r\n" if b"HELLO" in data else b"+OK\r\n" * data.count(b"*"))
        steps -= 1
    answers.close()


def told_of(story: Story, *, timeout: float, every: float = 0.0, steps: int = 1000) -> None:
    async def main() -> None:
        server = await asyncio.start_server(lambda r, w: answered(r, w, every=every, steps=steps), "127.0.0.1", 0)
        client = connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout=timeout)
        pipe = Pipe(client.connection_pool, timeout=timeout)
        try:
            await story(pipe)
        finally:
            await pipe.aclose()
            await client.aclose()
            server.close()
            await asyncio.sleep(every + 0.05)  # until the server's side has noticed

    asyncio.run(main())


def test_a_connection_that_is_closed_as_soon_as_it_is_open_is_noticed_at_once() -> None:
    async def story(pipe: Pipe) -> None:
        started = time.monotonic()
        for _ in range(3):
            assert {type(answer) for answer in await results(*(pipe.call("PING") for _ in range(3)))} == {
                rex.ConnectionError
            }
        assert time.monotonic() - started < TIMEOUT
        await pipe.aclose()
        with pytest.raises(rex.ConnectionError):
            await pipe.call("PING")

    for steps in (1, 2, 3):  # redis-py says HELLO, and who it is
        told_of(story, timeout=10.0, steps=steps)


def test_opening_a_connection_takes_no_longer_than_the_timeout() -> None:
    async def story(pipe: Pipe) -> None:
        started = time.monotonic()
        assert {type(answer) for answer in await results(*(pipe.call("PING") for _ in range(3)))} == {rex.TimeoutError}
        assert time.monotonic() - started < 1.5 * TIMEOUT

    told_of(story, timeout=TIMEOUT, every=0.8 * TIMEOUT)  # each step in time, together too late


def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(65536):
                writer.write(b"%1\r\n+proto\r\n:3\r\n" if b"HELLO" in data else b"+OK\r\n" * data.count(b"*"))
                if b"PING" in data:
                    writer.write(b"+MORE\r\n")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        client = connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout=TIMEOUT)
        pipe = Pipe(client.connection_pool, timeout=TIMEOUT)
        try:
            first = await results(pipe.call("PING"))
            await asyncio.sleep(0.01)
            assert first == [b"OK"] and pipe._line and pipe._line.lost
            assert await pipe.call("TIME") == b"OK"
        finally:
            await pipe.aclose()
            await client.aclose()
            server.close()
            await asyncio.sleep(0.05)  # until the server's side has noticed

    asyncio.run(main())
