"""uvicorn's connection with limits of our own: how large a request's head may be, how long it may take, who may idle.

uvicorn has none of these: a trickled header, or a connection that never says a word, would stay open for ever.
"""

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gatekeeper.http.answers import Answer
from gatekeeper.http.problems import problem
from gatekeeper.http.visit import Visit

MAX_HEAD = 32 * 1024
"""Bytes of a request's line and headers together."""
MAX_HEADERS = 100
HEAD_SECONDS = 10.0
"""How long a request's head may take to arrive."""
IDLE_SECONDS = 5.0
"""How long a connection may be open without a request."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection. A request that breaks a limit is answered with a problem, and the connection closed."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._in_head = False
        self._head_bytes = 0
        self._chunk = 0
        self._since = self.loop.time()  # of the head that is arriving, or of being idle
        self._watch_handle = self.loop.call_later(IDLE_SECONDS, self._watch)

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch_handle.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Look once in a while, which costs a request nothing; a limit is kept to within one look."""
        if self.transport.is_closing():
            return
        waited = self.loop.time() - self._since
        if self._in_head and waited >= HEAD_SECONDS:
            self.refuse("request_timeout")
            return
        if not self._in_head and not self._busy() and waited >= IDLE_SECONDS:
            self.transport.close()
            return
        self._watch_handle = self.loop.call_later(IDLE_SECONDS / 2, self._watch)

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def data_received(self, data: bytes) -> None:
        self._chunk = len(data)
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD and not self.transport.is_closing():
                self.refuse("headers_too_large")

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes, self._since = True, 0, self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        if not self.transport.is_closing() and self.head_fits():
            super().on_headers_complete()

    def head_fits(self) -> bool:
        """Whether the head that has arrived is within its limits; answers it when it is not."""
        if len(self.headers) <= MAX_HEADERS and self._head_bytes + self._chunk <= MAX_HEAD:
            return True
        # The chunk may hold a body, too: count what is the head's.
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if len(self.headers) <= MAX_HEADERS and size <= MAX_HEAD:
            return True
        self.refuse("headers_too_large")
        return False

    def on_body(self, body: bytes) -> None:
        if self.cycle is not None:  # there is none for what was refused
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.cycle is not None:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """As uvicorn's, without a timer for each response."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._since = self.loop.time()
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)

    def refuse(self, code: str) -> None:
        """Answer with a problem and close; nothing more of this connection is read."""
        if self.transport.is_closing():
            return
        if not self._busy():
            self.write(problem(code, Visit("", dict(self.headers or ())).request_id, "", (b"connection", b"close")))
        self.transport.close()

    def write(self, answer: Answer) -> None:
        """Write a whole response at once."""
        lines = [b": ".join(header) for header in (*self.server_state.default_headers, *answer.headers)]
        self.transport.write(b"".join((STATUS_LINE[answer.status], b"\r\n".join(lines), b"\r\n\r\n", answer.body)))
