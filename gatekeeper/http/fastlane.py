"""The purchase's short way: from the parser's callback to the batcher and back, without an ASGI task or scope.

It takes a whole, plain `POST /v1/sales/{sale}/reservations` that arrived in one piece on a connection that waits for
nothing else. Whatever is unusual (pipelined, in pieces, chunked, Expect, HTTP/1.0, `Connection: close`, a client that
reads slowly) goes the ASGI way. Both ways judge by the same `Desk`.
"""

from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gatekeeper import metrics
from gatekeeper.http.answers import Answer
from gatekeeper.http.guard import GuardedProtocol
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
        self.disconnected = self.response_complete = False
        self.keep_alive = True
        self.message_event = _Event()


class FastLane(GuardedProtocol):
    """One connection to an app that shows its `desk`."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._desk: Desk = self.app.desk
        self._fast = False  # the request that is being read may go the short way
        self._body = b""

    def on_message_begin(self) -> None:
        # What uvicorn prepares for ASGI is prepared in `_leave`, if it is needed.
        self._in_head, self._head_bytes, self._since = True, 0, self.loop.time()
        self._fast, self._body = False, b""
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
            and (self.cycle is None or self.cycle.response_complete)
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not (self.expect_100_continue or self.flow.write_paused or self.parser.should_upgrade())
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

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._fast and not self.transport.is_closing():  # the rest of it is still on its way
            body = self._body
            self._leave()
            if body:
                super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._fast:
            super().on_message_complete()
            return
        self._fast = False
        pending = _Pending()
        self.cycle = pending  # type: ignore[assignment]
        visit = Visit(self.url[_LEFT:-_RIGHT].decode("ascii"), self.headers)
        self._desk.take(visit, self.headers, self._body, partial(self._answer, pending))

    def _answer(self, pending: _Pending, answer: Answer) -> None:
        """Write the answer to a purchase, unless its client is gone, and let the next request come."""
        metrics.requests(ROUTE, answer.status).inc()
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
