"""The purchase's short way: from the connection to the batcher and back, without an ASGI task or scope.

It takes a whole, plain `POST /v1/sales/{sale}/reservations` that arrived in one piece on a connection that waits for
nothing else. Whatever is unusual (pipelined, in pieces, chunked, Expect, HTTP/1.0, `Connection: close`, a client that
reads slowly) goes the ASGI way. Both ways judge by the same `Desk`.
"""

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gatekeeper import metrics
from gatekeeper.http.answers import Answer, Headers
from gatekeeper.http.guard import GuardedProtocol
from gatekeeper.http.heads import MAX_LESSONS, KnownHead, shape
from gatekeeper.http.purchase import CLOSE, ROUTE, Desk
from gatekeeper.http.visit import Visit
from gatekeeper.model import SALE_NAME

_SALES, _RESERVATIONS = b"/v1/sales/", b"/reservations"
_LEFT, _RIGHT = len(_SALES), len(_RESERVATIONS)


class _Event:
    """What uvicorn sets on a request of which the connection is lost."""

    def set(self) -> None: ...


class _Pending:
    """Stands where uvicorn keeps the request in progress: it asks for these attributes and for nothing else."""

    __slots__ = ("disconnected", "keep_alive", "message_event", "response_complete")

    def __init__(self) -> None:
        self.disconnected = False
        self.response_complete = self.keep_alive = True
        self.message_event = _Event()


class FastLane(GuardedProtocol):
    """One connection to an app that shows its `desk`."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._desk: Desk = self.app.desk
        self._pending = _Pending()  # the purchase that waits for its answer: there is one at most
        self._between = True  # the parser waits for the first byte of a request
        self._fast = False  # the request that is being read may go the short way
        self._data = self._body = b""
        self._known: KnownHead | None = None
        self._lessons = MAX_LESSONS
        self._shape: Headers = []  # of the last head that the parser read

    def data_received(self, data: bytes) -> None:
        known = self._known
        if known and self._between and self._is_free() and (found := known.read(data)):
            visit, body = found
            if self._desk.knows(visit, known.authorization):
                self._begin()
                self._desk.decide(visit, body, self._answer)
                return
        self._data = data if self._between else b""
        super().data_received(data)
        self._data = b""
        if self._fast and not self.transport.is_closing():  # the rest of it is still on its way
            body = self._body
            self._leave()
            if body:
                super().on_body(body)

    def _is_free(self) -> bool:
        """Whether nothing else is under way on this connection, and what is written leaves it."""
        if self.flow.write_paused or self.transport.is_closing():
            return False
        return self.cycle is None or self.cycle.response_complete

    def on_message_begin(self) -> None:
        # What uvicorn prepares for ASGI is prepared in `_leave`, if it is needed.
        self._in_head, self._head_bytes, self._since = True, 0, self.loop.time()
        self._between, self._fast, self._body = False, False, b""
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self.transport.is_closing() or not self.head_fits():
            return  # what is pipelined behind an answer that closes is not read
        if self._is_plain_purchase():
            self._fast = True
        else:
            self._leave()

    def _is_plain_purchase(self) -> bool:
        url = self.url
        if not (url.endswith(_RESERVATIONS) and url.startswith(_SALES)):
            return False
        sale = url[_LEFT:-_RIGHT]
        return (
            self.parser.get_method() == b"POST"
            and SALE_NAME.fullmatch(sale.decode("latin-1")) is not None
            and self._is_free()
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not (self.expect_100_continue or self.parser.should_upgrade())
            and self.limit_concurrency is None
            and not any(name == b"transfer-encoding" for name, _ in self.headers)
        )

    def _leave(self) -> None:
        """Go on as uvicorn would have from the start."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        self._fast = False
        HttpToolsProtocol.on_message_begin(self)
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        HttpToolsProtocol.on_headers_complete(self)

    def on_body(self, body: bytes) -> None:
        if self._fast:
            self._body = self._body + body if self._body else body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._between = True
        if not self._fast:
            super().on_message_complete()
            return
        self._fast = False
        self._begin()
        headers, body = self.headers, self._body
        visit = Visit(self.url[_LEFT:-_RIGHT].decode("ascii"), dict(headers))
        if refusal := self._desk.refuse(visit, headers):
            self._answer(refusal)
            return
        if self._data and self._lessons:
            self._learn(visit, body)
        self._desk.decide(visit, body, self._answer)

    def _learn(self, visit: Visit, body: bytes) -> None:
        """Learn a head that came twice: many connections bring one request, or another head each time."""
        last, self._shape = self._shape, shape(self.headers)
        if last == self._shape:
            self._lessons -= 1
            self._known = KnownHead.learn(visit, self._data, body, self.headers)

    def _begin(self) -> None:
        self._pending.response_complete = False
        self.cycle = self._pending  # type: ignore[assignment]

    def _answer(self, answer: Answer) -> None:
        """Write the answer to a purchase, unless its client is gone, and let the next request come."""
        metrics.REQUESTS[ROUTE, answer.status] += 1
        pending = self._pending
        if pending.disconnected or self.transport.is_closing():
            return
        last = not pending.keep_alive
        if last:
            answer.headers.append(CLOSE)
        self.write(answer)
        pending.response_complete = True
        if last or CLOSE in answer.headers:
            self.transport.close()
        self.on_response_complete()
