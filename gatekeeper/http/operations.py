"""Looking up reservations and sales, and the admin's verbs. Each operation returns an Answer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import orjson
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from gatekeeper import metrics
from gatekeeper.errors import GateError
from gatekeeper.http.answers import Answer, json_answer, reservation_json, sale_json, status_json
from gatekeeper.http.door import READ_SECONDS, Door
from gatekeeper.http.problems import Flaw, Refused, gate_code, invalid, problem
from gatekeeper.http.purchase import Disconnected, read_body, send_answer
from gatekeeper.http.validation import TEXT, valid_text
from gatekeeper.http.visit import Visit, refuse_repeated
from gatekeeper.model import RESERVATION_ID, SKU, Reservation, SaleView, reservation_id
from gatekeeper.outcomes import Outcome

MAX_PAGE = 1000
"""SKUs in one answer."""
DEFAULT_PAGE = 100

ANYONE = frozenset(("shop", "admin", "buyer"))
SHOP = frozenset(("shop", "admin"))
ADMIN = frozenset(("admin",))

_NO_STORE = (b"cache-control", b"no-store")


class Call(NamedTuple):
    """A request that has been let in."""

    door: Door
    request: Request
    visit: Visit


Operation = Callable[[Call], Awaitable[Answer]]


class Endpoint:
    """An ASGI app around one operation: lets in `roles` only, bounds its time, turns errors into problems."""

    def __init__(self, door: Door, route: str, operation: Operation, roles: frozenset[str]) -> None:
        self._door, self._route, self._operation, self._roles = door, route, operation, roles

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        visit = Visit(request.path_params["sale"], dict(scope["headers"]))
        try:
            answer = await self._answer(Call(self._door, request, visit))
        except Disconnected:
            return
        metrics.REQUESTS[self._route, answer.status] += 1
        await send_answer(answer, send)

    async def _answer(self, call: Call) -> Answer:
        visit = call.visit
        try:
            refuse_repeated(call.request.scope["headers"])
            visit.enter(self._door.keyring.identify(visit.headers.get(b"authorization"), visit.sale), self._roles)
            if self._door.desk.closed:
                return problem("gate_unavailable", visit.request_id, self._door.desk.closed)
            return await self._operation(call)
        except Refused as refused:
            return refused.answer(visit.request_id, *visit.echo())
        except GateError as error:
            return problem(gate_code(error), visit.request_id, "", *visit.echo())
        except TimeoutError:
            return problem("gate_unavailable", visit.request_id, "", *visit.echo())


async def find_by_key(call: Call) -> Answer:
    """The reservation that a purchase with this key made, if it did: an answer that got lost is found again."""
    visit = call.visit
    if b"idempotency-key" not in visit.headers:
        raise Refused("idempotency_key_required", "Send the Idempotency-Key header of the purchase.")
    visit.read_key(required=True)
    buyer = call.request.query_params.get("buyer", visit.identity.buyer)
    if not valid_text(buyer):
        raise invalid(Flaw("/query/buyer", TEXT))
    return await _reservation(call, reservation_id(visit.sale, buyer, visit.key))


async def get_reservation(call: Call) -> Answer:
    """One reservation as it is now."""
    return await _reservation(call, reservation_of(call))


def reservation_of(call: Call) -> str:
    """The id in the path; raises Refused when it can be none."""
    id: str = call.request.path_params["id"]
    if not RESERVATION_ID.fullmatch(id):
        raise Refused("unknown_reservation")
    return id


async def _reservation(call: Call, id: str) -> Answer:
    async with asyncio.timeout(READ_SECONDS):
        found = await call.door.gate.reservation(call.visit.sale, id)
    if not found or not _may_see(call.visit, found):
        raise Refused("unknown_reservation")
    return json_answer(200, reservation_json(found), call.visit.request_id, *call.visit.echo(), _NO_STORE)


def _may_see(visit: Visit, reservation: Reservation) -> bool:
    return visit.identity.role != "buyer" or visit.identity.buyer == reservation.buyer


async def get_sale(call: Call) -> Answer:
    """A sale with the SKUs asked for, or with a page of all."""
    return json_answer(200, sale_json(await _view(call)), call.visit.request_id, _NO_STORE)


async def get_status(call: Call) -> Answer:
    """The same and what concerns its operator."""
    return json_answer(200, status_json(await _view(call)), call.visit.request_id, _NO_STORE)


async def _view(call: Call) -> SaleView:
    query = call.request.query_params
    skus, after, limit = query.getlist("sku"), query.get("after", ""), query.get("limit", str(DEFAULT_PAGE))
    flaws = []
    if len(skus) > MAX_PAGE or not all(map(SKU.fullmatch, skus)):
        flaws.append(Flaw("/query/sku", f"expected up to {MAX_PAGE} SKUs of 1 to 64 printable ASCII characters"))
    if after and not SKU.fullmatch(after):
        flaws.append(Flaw("/query/after", "expected a SKU"))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 5 and 1 <= int(limit) <= MAX_PAGE):
        flaws.append(Flaw("/query/limit", f"expected an integer from 1 to {MAX_PAGE}"))
    if flaws:
        raise invalid(*flaws)
    async with asyncio.timeout(READ_SECONDS):
        view = await call.door.gate.availability(call.visit.sale, skus=skus, after=after, limit=int(limit))
    if isinstance(view, tuple):
        raise Refused("unknown_sku", skus=view)
    return view


def control(action: str) -> Operation:
    """An admin's verb: open, pause, resume or close."""

    async def operation(call: Call) -> Answer:
        await _expect_no_body(call)
        visit = call.visit
        async with asyncio.timeout(READ_SECONDS):
            done = await call.door.gate.control(visit.sale, action, actor=f"http:{visit.identity.name}")
        if done.outcome is not Outcome.OK:
            return problem(done.outcome, visit.request_id, f"The sale cannot be asked to {action} in its state.")
        if done.changed:
            call.door.batcher.touched.add(visit.sale)
        content = {"sale": visit.sale, "state": done.state, "changed": done.changed}
        return json_answer(200, content, visit.request_id)

    return operation


async def _expect_no_body(call: Call) -> None:
    body = await read_body(call.request.receive)
    try:
        empty = not body.strip() or orjson.loads(body) == {}
    except orjson.JSONDecodeError:
        empty = False
    if not empty:
        raise invalid(Flaw("", "expected no body, or {}"))
