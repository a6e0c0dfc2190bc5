"""One connection to Redis on which calls follow each other without waiting for answers.

Calls made in the same moment, of one sale or of several, leave in one write, and Redis answers them in order: that is
one round trip for all. redis-py, which opens the connection (address, TLS, login), would take a connection and
some 150 µs for each. What fails here are its exceptions.
"""

import asyncio
from collections import deque
from typing import Any

import hiredis
import redis.asyncio as aioredis
from redis import exceptions as rex
from redis.asyncio.connection import AbstractConnection

from gatekeeper.errors import Overloaded

MAX_WAITING = 1000
"""Calls at once: Redis answers so many within 0.2 s, so nobody comes near the timeout, which would fail all of them."""

_ERRORS: dict[str, type[rex.RedisError]] = {
    "NOSCRIPT": rex.NoScriptError,
    "OOM": rex.OutOfMemoryError,
    "READONLY": rex.ReadOnlyError,
    "LOADING": rex.BusyLoadingError,
    "MASTERDOWN": rex.MasterDownError,
    "CLUSTERDOWN": rex.ClusterDownError,
    "NOAUTH": rex.AuthenticationError,
}
"""The first word of Redis's errors → the exceptions that the gate tells apart, as redis-py has them."""

_NOTHING = object()


def _error(text: str) -> rex.RedisError:
    word, _, rest = text.partition(" ")
    known = _ERRORS.get(word)
    return known(rest) if known else rex.ResponseError(text)


class Pipe:
    """Calls through one connection, which is opened when it is needed and opened anew after it was lost."""

    def __init__(self, pool: aioredis.ConnectionPool, *, timeout: float | None) -> None:
        """`pool` knows how to connect. `timeout`: seconds for the connection, and for each answer; None: forever."""
        self._pool, self._timeout = pool, timeout
        self._line: _Line | None = None
        self._opening: asyncio.Task[_Line] | None = None
        self._closed = False

    async def call(self, *command: str | int) -> Any:
        """Send a command and return Redis's answer; raises redis.exceptions, or Overloaded, and then nothing was sent.

        A TimeoutError or ConnectionError leaves the outcome unknown, and is everybody's who waits by then.
        """
        line = self._line
        if line is None or line.lost:
            line = await self._open()
        return await line.call(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub wants one argument

    async def _open(self) -> "_Line":
        """Open a connection; who comes meanwhile waits for the same one, and fails with it."""
        if self._closed:
            raise rex.ConnectionError("this connection was closed")
        if self._opening is None:
            self._opening = asyncio.create_task(self._connect())
        return await asyncio.shield(self._opening)

    async def _connect(self) -> "_Line":
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(self._timeout):
                await connection.connect()  # type: ignore[no-untyped-call]
            self._line = _Line(connection, self._timeout)
            return self._line
        except TimeoutError:
            raise rex.TimeoutError(f"Redis did not open a connection within {self._timeout} s") from None
        finally:
            self._opening = None
            await connection.disconnect(nowait=True)  # unless it was handed over

    async def aclose(self) -> None:
        """Close the connection; who still waits is told that it is lost, and nobody may call any more."""
        self._closed = True
        if self._opening:
            await asyncio.wait([self._opening])
        if self._line:
            self._line.close()
            await asyncio.sleep(0)  # the transport closes in the loop's next round


class _Line(asyncio.Protocol):
    """An open connection, from when redis-py has logged in until it is lost."""

    def __init__(self, connection: AbstractConnection, timeout: float | None) -> None:
        # redis-py has no public way to hand over what it opened: tests/integration/test_pipe.py tells if this one ends.
        reader, writer = connection._reader, connection._writer
        assert reader and writer
        self._writer = writer  # kept, or it would close the connection when it is collected
        connection._reader = connection._writer = None
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(replyError=_error, notEnoughData=_NOTHING)
        self._unsent: list[bytes] = []
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        """Who is to be answered, in the order of the answers, and since when (the loop's time)."""
        self._timeout = timeout
        self._watch: asyncio.TimerHandle | None = None
        self.lost = False
        self._transport = self._writer.transport
        if self._transport.is_closing() or reader.at_eof():  # nobody would tell us any more
            self._transport.abort()
            raise rex.ConnectionError("Redis closed the connection as soon as it was open")
        self._transport.set_protocol(self)

    def call(self, packed: bytes) -> "asyncio.Future[Any]":
        """Send; the answer comes in its turn."""
        if self.lost:
            raise rex.ConnectionError("Redis closed the connection")
        if len(self._waiting) >= MAX_WAITING:
            raise Overloaded(f"{len(self._waiting)} calls are waiting for Redis")
        answer = self._loop.create_future()
        now = self._loop.time()
        self._waiting.append((answer, now))
        if not self._unsent:
            self._loop.call_soon(self._send)
        self._unsent.append(packed)
        if self._timeout is not None and self._watch is None:
            self._watch = self._loop.call_at(now + self._timeout, self._look)
        return answer

    def _send(self) -> None:
        """Write what was called in this round of the event loop."""
        if not self.lost:
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def _look(self) -> None:
        """Give up when the oldest call has waited too long: an answer after that could be taken for another's."""
        self._watch = None
        if not self._waiting or self._timeout is None:
            return
        due = self._waiting[0][1] + self._timeout
        if due <= self._loop.time():
            self._give_up(rex.TimeoutError, f"Redis did not answer within {self._timeout} s")
        else:
            self._watch = self._loop.call_at(due, self._look)

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _NOTHING:
                if not isinstance(reply, hiredis.PushNotification):  # which answers nobody
                    self._answer(reply)
        except (hiredis.HiredisError, IndexError) as error:
            self._give_up(rex.ConnectionError, f"Redis sent what nobody asked for ({type(error).__name__}: {error})")

    def _answer(self, reply: Any) -> None:
        answer, _ = self._waiting.popleft()
        if answer.done():  # whoever asked is gone
            return
        if isinstance(reply, rex.RedisError):
            answer.set_exception(reply)
        else:
            answer.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._give_up(rex.ConnectionError, f"Redis closed the connection{f': {exc}' if exc else ''}")

    def close(self) -> None:
        """End the connection."""
        self._give_up(rex.ConnectionError, "this connection was closed")

    def _give_up(self, error: type[rex.RedisError], why: str) -> None:
        self.lost = True
        self._transport.abort()
        if self._watch:
            self._watch.cancel()
        waiting, self._waiting = self._waiting, deque()
        for answer, _ in waiting:
            if not answer.done():
                answer.set_exception(error(why))
