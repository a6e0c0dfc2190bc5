"""The hot path: check → parse → `batcher.submit` → look up the reply → send.

A raw ASGI callable, because Starlette's Route and Request would cost half of the throughput (docs/benchmarks.md).
The steps on `Desk` know nothing of ASGI.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from functools import partial
from typing import Any, Protocol

from gatekeeper import metrics
from gatekeeper.errors import GateError, GateUnavailable
from gatekeeper.http.answers import Answer, Header, Headers, json_answer, reservation_json, rfc3339
from gatekeeper.http.auth import Keyring
from gatekeeper.http.problems import Form, Refused, form, gate_code, problem
from gatekeeper.http.soldout import SoldOut
from gatekeeper.http.validation import MAX_BODY, Cart, parse_cart
from gatekeeper.http.visit import Visit, refuse_repeated
from gatekeeper.model import Decision, Items, Purchase, reservation_id, summed
from gatekeeper.outcomes import Outcome

_log = logging.getLogger(__name__)

ROUTE = "/v1/sales/{sale}/reservations"
BODY_SECONDS = 10.0
"""How long a body may take to arrive."""
MAX_RETRY_AFTER = 3600
_BY_HAND = 60  # seconds until a sale without a time of opening may be worth another look
_JSON = b"application/json"
_ROLES = frozenset(("shop", "admin", "buyer"))
CLOSE = (b"connection", b"close")
"""The header of an answer after which what is left of a body is not worth reading."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Admits(Protocol):
    """The one verb that a purchase needs (`Batcher.submit`)."""

    def submit(self, purchase: Purchase, done: Callable[[Decision | Exception], None]) -> None: ...


class Disconnected(Exception):
    """The client left before its body had arrived."""


Done = Callable[[Answer], None]


class Desk:
    """Answers purchases. `closed` is why it answers none: "" when it does."""

    def __init__(self, keyring: Keyring, batcher: Admits) -> None:
        self.closed = ""
        self._keyring = keyring
        self._batcher = batcher
        self._sold_out = SoldOut()
        self._refusal: tuple[Decision, Form] | None = None  # the newest, which most of its batch share

    async def purchase(self, visit: Visit, headers: Headers, receive: Receive) -> Answer:
        """Answer one purchase of which the body is still to come."""
        if refusal := self.refuse(visit, headers):
            return refusal
        try:
            body = await read_body(receive)
        except Refused as refused:
            return refused.answer(visit.request_id, *visit.echo())
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.decide(visit, body, lambda found: None if answer.done() else answer.set_result(found))
        return await answer

    def refuse(self, visit: Visit, headers: Collection[Header]) -> Answer | None:
        """Judge by the headers alone; returns the refusal, or None when the body is worth a look."""
        try:
            self.check(visit, headers)
        except Refused as refused:
            return refused.answer(visit.request_id, *visit.echo())
        except Exception:
            return _broken(visit)
        return None

    def knows(self, visit: Visit, authorization: bytes) -> bool:
        """Whether this header still speaks for whom it spoke for when the visit's like was let in."""
        try:
            return self._keyring.identify(authorization, visit.sale) is visit.identity
        except Refused:
            return False

    def decide(self, visit: Visit, body: bytes, done: Done) -> None:
        """Ask the gate, and hand the answer to `done`, once; whatever is wrong becomes a problem."""
        started = time.perf_counter()
        try:
            cart = self.parse(visit, body)
            items = summed(cart.items)
            known = None if visit.key_given else self._sold_out.recall(visit.sale, items)
            if not known:
                id = reservation_id(visit.sale, cart.buyer, visit.key)
                purchase = Purchase(visit.sale, id, cart.buyer, visit.key, cart.reference, items)
                self._batcher.submit(purchase, partial(self._decided, visit, items, started, done))
                return
            metrics.PURCHASE_SECONDS.append(time.perf_counter() - started)
            answer = self.answer(visit, known)
        except Refused as refused:
            answer = refused.answer(visit.request_id, *visit.echo())
        except GateError as error:
            answer = self.undecided(visit, error)
        except Exception:
            answer = _broken(visit)
        done(answer)

    def _decided(self, visit: Visit, items: Items, started: float, done: Done, decision: Decision | Exception) -> None:
        try:
            if isinstance(decision, Decision):
                if not decision.reservation:
                    self._sold_out.remember(visit.sale, items, decision)
                metrics.PURCHASE_SECONDS.append(time.perf_counter() - started)
                answer = self.answer(visit, decision)
            else:
                answer = self.undecided(visit, decision)
        except Exception:
            answer = _broken(visit)
        done(answer)

    def check(self, visit: Visit, headers: Collection[Header]) -> None:
        """Judge by the headers alone; raises Refused."""
        if len(headers) != len(visit.headers):
            refuse_repeated(headers)
        visit.enter(self._keyring.identify(visit.headers.get(b"authorization"), visit.sale), _ROLES)
        visit.read_key(required=visit.identity.role == "buyer")
        expect_json(visit)

    def parse(self, visit: Visit, body: bytes) -> Cart:
        """Return what the body says; raises Refused, or GateUnavailable while closed."""
        _bounded(body)
        cart = parse_cart(body)
        if visit.identity.role == "buyer" and visit.identity.buyer != cart.buyer:
            raise Refused("forbidden", "A buyer token may buy for its own buyer (`sub`) only.")
        if self.closed:
            raise GateUnavailable(self.closed)
        return cart

    def answer(self, visit: Visit, decision: Decision) -> Answer:
        """Render what the gate decided."""
        metrics.PURCHASES[decision.outcome] += 1
        if decision.reservation:
            return self._reserved(visit, decision)
        if not self._refusal or self._refusal[0] is not decision:
            members, *more = _EXTRAS.get(decision.outcome, _nothing)(decision)
            self._refusal = decision, form(decision.outcome, "", *more, members=members)
        return self._refusal[1].filled_in(visit.request_id, *visit.echo())

    def undecided(self, visit: Visit, error: Exception) -> Answer:
        """Render that the gate gave no decision; the key in it is how the client finds out."""
        if not isinstance(error, GateError):
            raise error
        code = gate_code(error)
        metrics.PURCHASES[code] += 1
        return problem(code, visit.request_id, "", *visit.echo(), members={"idempotency_key": visit.key})

    def _reserved(self, visit: Visit, decision: Decision) -> Answer:
        assert decision.reservation
        content = reservation_json(decision.reservation)
        location = (b"location", f"/v1/sales/{visit.sale}/reservations/{decision.reservation.id}".encode())
        if decision.outcome is Outcome.ADMITTED:
            return json_answer(201, content, visit.request_id, *visit.echo(), location)
        replayed = (b"idempotent-replayed", b"true")
        return json_answer(200, content, visit.request_id, *visit.echo(), location, replayed)


def _broken(visit: Visit) -> Answer:
    """Log what nobody expected under the id that the client is told, which learns nothing else."""
    _log.exception("purchase %s failed", visit.request_id)
    return problem("internal_error", visit.request_id)


def expect_json(visit: Visit) -> None:
    """Raise Refused unless the headers announce JSON of ≤ MAX_BODY bytes."""
    kind = visit.headers.get(b"content-type", b"")
    if kind != _JSON and kind.partition(b";")[0].strip().lower() != _JSON:
        raise Refused("unsupported_media_type", "", CLOSE)
    length = visit.headers.get(b"content-length", b"0")
    if not (length.isdigit() and len(length) < 10 and int(length) <= MAX_BODY):
        raise Refused("payload_too_large", "", CLOSE)


async def read_body(receive: Receive) -> bytes:
    """Return the request's body of ≤ MAX_BODY bytes; raises Refused, or Disconnected."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        return _bounded(body)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _read_rest(message, receive)
    except TimeoutError:
        raise Refused("request_timeout", "", CLOSE) from None


async def _read_rest(message: Message, receive: Receive) -> bytes:
    body = b""
    while True:
        if message["type"] == "http.disconnect":
            raise Disconnected
        body = _bounded(body + message.get("body", b""))
        if not message.get("more_body"):
            return body
        message = await receive()


def _bounded(body: bytes) -> bytes:
    if len(body) > MAX_BODY:
        raise Refused("payload_too_large", "", CLOSE)
    return body


# What a refusal tells beyond its code: the problem's further members, then headers.

Extras = tuple[Any, ...]


def _nothing(_: Decision) -> Extras:
    return ({},)


def _sold_out(decision: Decision) -> Extras:
    members = ("sku", "requested", "available", "held")
    return ({"items": [{name: getattr(short, name) for name in members} for short in decision.shortages]},)


def _skus(decision: Decision) -> Extras:
    return ({"skus": decision.skus},)


def _buyer_limit(decision: Decision) -> Extras:
    return ({"limit": decision.limit},)


def _not_open(decision: Decision) -> Extras:
    if not decision.opens_at_ms:
        return {}, (b"retry-after", b"%d" % _BY_HAND)
    # This machine's clock, not Redis's: only a hint.
    seconds = -(-decision.opens_at_ms // 1000) - int(time.time())
    wait = min(max(seconds, 1), MAX_RETRY_AFTER)
    return {"opens_at": rfc3339(decision.opens_at_ms)}, (b"retry-after", b"%d" % wait)


_EXTRAS: dict[Outcome, Callable[[Decision], Extras]] = {
    Outcome.SOLD_OUT: _sold_out,
    Outcome.UNKNOWN_SKU: _skus,
    Outcome.SKU_PAUSED: _skus,
    Outcome.BUYER_LIMIT: _buyer_limit,
    Outcome.SALE_NOT_OPEN: _not_open,
}


def purchase_app(desk: Desk) -> Callable[[str, Scope, Receive, Send], Awaitable[None]]:
    """Return the ASGI side: (sale, scope, receive, send)."""

    async def app(sale: str, scope: Scope, receive: Receive, send: Send) -> None:
        visit = Visit(sale, dict(scope["headers"]))
        try:
            answer = await desk.purchase(visit, scope["headers"], receive)
        except Disconnected:
            return
        metrics.REQUESTS[ROUTE, answer.status] += 1
        await send_answer(answer, send)

    return app


async def send_answer(answer: Answer, send: Send) -> None:
    """Send a whole response; a client that is gone takes no harm."""
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})
