"""What machines and people ask of a front door itself: is it alive, is it ready, its metrics, its contract."""

from collections.abc import Awaitable, Callable

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import Receive, Scope, Send

from gatekeeper.http.answers import JSON, Answer, basics, json_answer
from gatekeeper.http.docs import page
from gatekeeper.http.door import Door
from gatekeeper.http.openapi import SPEC
from gatekeeper.http.problems import problem
from gatekeeper.http.purchase import send_answer
from gatekeeper.http.visit import Visit
from gatekeeper.metrics import flush, registry

_NO_STORE = (b"cache-control", b"no-store")
_SPEC = orjson.dumps(SPEC, option=orjson.OPT_INDENT_2)
_PAGE = page(SPEC).encode()
# The page has its own style and nothing else: no script, no other origin.
_PAGE_POLICY = (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'")

Probe = Callable[[Door, Visit], Awaitable[Answer]]


class ProbeEndpoint:
    """An ASGI app around one probe, open to anyone."""

    def __init__(self, door: Door, probe: Probe) -> None:
        self._door, self._probe = door, probe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_answer(await self._probe(self._door, Visit("", dict(scope["headers"]))), send)


async def livez(_: Door, visit: Visit) -> Answer:
    """200 while this process answers at all."""
    return json_answer(200, {"alive": True}, visit.request_id, _NO_STORE)


async def readyz(door: Door, visit: Visit) -> Answer:
    """200 while this door should get traffic, else 503 with the reason."""
    if reason := await door.unready():
        return problem("not_ready", visit.request_id, reason, _NO_STORE)
    return json_answer(200, {"ready": True}, visit.request_id, _NO_STORE)


async def metrics(_: Door, visit: Visit) -> Answer:
    """Prometheus' text format; of all worker processes where there are several."""
    flush()
    body = generate_latest(registry())
    return Answer(200, [*basics(CONTENT_TYPE_LATEST.encode(), body, visit.request_id), _NO_STORE], body)


async def openapi(_: Door, visit: Visit) -> Answer:
    """The contract, for machines."""
    return Answer(200, basics(JSON, _SPEC, visit.request_id), _SPEC)


async def docs(_: Door, visit: Visit) -> Answer:
    """The contract, for people."""
    return Answer(200, [*basics(b"text/html; charset=utf-8", _PAGE, visit.request_id), _PAGE_POLICY], _PAGE)
