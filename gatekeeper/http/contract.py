"""What the fast lane leans on in uvicorn, which is no public interface: tried out on a connection in memory.

Run at every start of `serve` (1 ms): a uvicorn that has changed is then served without fast lane, with a warning.
"""

import asyncio
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from gatekeeper.http.answers import Answer, json_answer
from gatekeeper.http.auth import Identity
from gatekeeper.http.fastlane import FastLane

_PURCHASE = b"POST /v1/sales/s/reservations HTTP/1.1\r\nhost: x\r\nauthorization: a\r\ncontent-length: 2\r\n\r\n{}"
_OTHER = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"


def broken() -> str:
    """Return what does not work with the installed uvicorn, "" when all does."""
    try:
        return asyncio.run(_try_out())
    except Exception as error:
        return f"uvicorn {uvicorn.__version__} is not one that the fast lane knows ({type(error).__name__}: {error})"


class _Transport(asyncio.Transport):
    """A connection in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = b"", False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class _Desk:
    """Answers a purchase when told to."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []

    def refuse(self, visit: Any, headers: Any) -> None:
        visit.identity = Identity("shop", "shop")

    def knows(self, visit: Any, authorization: bytes) -> bool:
        return True

    def decide(self, visit: Any, body: bytes, done: Any) -> None:
        self.waiting.append(done)


class _App:
    """Answers 204 the ASGI way."""

    def __init__(self) -> None:
        self.desk = _Desk()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def _try_out() -> str:
    app, transport = _App(), _Transport()
    config = uvicorn.Config(app, http=FastLane, log_config=None, lifespan="off", ws="none", proxy_headers=False)
    config.load()
    lane = FastLane(config=config, server_state=ServerState(), app_state={})
    lane.connection_made(transport)
    try:
        # Alone, then pipelined behind one that waits, then in two pieces.
        lane.data_received(_PURCHASE)
        lane.data_received(_OTHER)
        await asyncio.sleep(0)
        if transport.written or len(app.desk.waiting) != 1:
            return _differs("a purchase is not taken at the end of its message")
        app.desk.waiting.pop()(_answer())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if transport.written.count(b"HTTP/1.1 201 ") != 1 or transport.written.count(b"HTTP/1.1 204 ") != 1:
            return _differs("a request behind a purchase is not answered after it")
        lane.data_received(_PURCHASE[:-1])
        lane.data_received(_PURCHASE[-1:])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if transport.written.count(b"HTTP/1.1 204 ") != 2 or app.desk.waiting:
            return _differs("a purchase in pieces does not go the ASGI way")
        lane.data_received(_PURCHASE)
        lane.shutdown()
        app.desk.waiting.pop()(_answer())
        if transport.written.count(b"HTTP/1.1 201 ") != 2 or not transport.closed:
            return _differs("a purchase in flight is not answered before the connection closes")
        return ""
    finally:
        lane.connection_lost(None)


def _differs(what: str) -> str:
    return f"with uvicorn {uvicorn.__version__} {what}"


def _answer() -> Answer:
    return json_answer(201, {}, "r1")
