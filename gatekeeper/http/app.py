"""The front door as an ASGI app: purchases go straight to purchase.py, the rest through Starlette's routes."""

import logging
from collections.abc import Awaitable, Callable

import redis.asyncio as aioredis
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from gatekeeper import metrics
from gatekeeper.errors import GatekeeperError
from gatekeeper.http import endings, operations, probes
from gatekeeper.http.answers import Answer
from gatekeeper.http.door import Door
from gatekeeper.http.operations import ADMIN, ANYONE, SHOP, Endpoint, Operation
from gatekeeper.http.probes import ProbeEndpoint
from gatekeeper.http.problems import problem
from gatekeeper.http.purchase import ROUTE, purchase_app, send_answer
from gatekeeper.http.visit import Visit
from gatekeeper.settings import Settings

_OPERATIONS: tuple[tuple[str, str, Operation, frozenset[str]], ...] = (
    ("GET", ROUTE, operations.find_by_key, ANYONE),
    ("GET", ROUTE + "/{id}", operations.get_reservation, ANYONE),
    ("POST", ROUTE + "/{id}/confirm", endings.confirm, SHOP),
    ("POST", ROUTE + "/{id}/release", endings.release, ANYONE),
    ("POST", ROUTE + "/{id}/settle", endings.settle, SHOP),
    ("GET", "/v1/sales/{sale}", operations.get_sale, SHOP),
    ("GET", "/v1/admin/sales/{sale}/status", operations.get_status, ADMIN),
    ("POST", "/v1/admin/sales/{sale}/open", operations.control("open"), ADMIN),
    ("POST", "/v1/admin/sales/{sale}/pause", operations.control("pause"), ADMIN),
    ("POST", "/v1/admin/sales/{sale}/resume", operations.control("resume"), ADMIN),
    ("POST", "/v1/admin/sales/{sale}/close", operations.control("close"), ADMIN),
)
_PROBES = (
    ("/livez", probes.livez),
    ("/readyz", probes.readyz),
    ("/metrics", probes.metrics),
    ("/openapi.json", probes.openapi),
    ("/docs", probes.docs),
)
_SALES, _RESERVATIONS = "/v1/sales/", "/reservations"
_log = logging.getLogger(__name__)

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class FrontDoor:
    """The ASGI app; `desk` is where the fast lane takes purchases to."""

    def __init__(self, door: Door) -> None:
        self.desk = door.desk
        self._door, self._purchase, self._rest = door, purchase_app(door.desk), _routes(door)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(self._door, receive, send)
            return
        path: str = scope["path"]
        try:
            # Plain comparisons: a router would cost this path a quarter of its throughput.
            if scope["method"] == "POST" and path.startswith(_SALES) and path.endswith(_RESERVATIONS):
                sale = path[len(_SALES) : -len(_RESERVATIONS)]
                if sale and "/" not in sale:
                    await self._purchase(sale, scope, receive, send)
                    return
            await self._rest(scope, receive, send)
        except Exception:
            await _broken(scope, send)


def create_app(settings: Settings | None = None, client: aioredis.Redis | None = None) -> FrontDoor:
    """Return the front door; `settings` from the environment and a client of its own unless given.

    Raises SettingsError: a setting is malformed, or there are no API keys.
    """
    return FrontDoor(Door(settings or Settings.load(), client))


class _Routes(Starlette):
    """Starlette without its own page for what nobody expected: `_broken` answers that."""

    def build_middleware_stack(self) -> App:
        return ExceptionMiddleware(self.router, handlers=self.exception_handlers)


def _routes(door: Door) -> Starlette:
    routes = [
        Route(path, Endpoint(door, path, operation, roles), methods=[method])
        for method, path, operation, roles in _OPERATIONS
    ]
    routes += [Route(path, ProbeEndpoint(door, probe), methods=["GET"]) for path, probe in _PROBES]
    app = _Routes(routes=routes, exception_handlers={HTTPException: _not_routed})
    app.router.redirect_slashes = False
    return app


async def _not_routed(request: Request, error: Exception) -> Response:
    """The problem for what no route takes: not_found, or method_not_allowed with the methods that there are."""
    visit = Visit("", dict(request.scope["headers"]))
    allowed = _allowed(request)
    if not allowed:
        return _response(problem("not_found", visit.request_id))
    allow = (b"allow", ", ".join(sorted(allowed | {"OPTIONS"})).encode())
    if request.method == "OPTIONS":
        return _response(Answer(204, [allow, (b"x-request-id", visit.request_id.encode())], b""))
    return _response(problem("method_not_allowed", visit.request_id, "", allow))


def _allowed(request: Request) -> set[str]:
    """The methods of every route that takes this path; a purchase's is not among Starlette's."""
    matching = [r for r in request.app.routes if r.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in matching for method in route.methods}
    return methods | {"POST"} if any(route.path == ROUTE for route in matching) else methods


def _response(answer: Answer) -> Response:
    response = Response(answer.body, answer.status)
    response.raw_headers = answer.headers
    metrics.REQUESTS["none", answer.status] += 1
    return response


async def _lifespan(door: Door, receive: Receive, send: Send) -> None:
    """Start and stop; a refusal to start reaches the log as its text, without a traceback."""
    await receive()
    try:
        await door.start()
    except GatekeeperError as error:
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await door.stop()
    await send({"type": "lifespan.shutdown.complete"})


async def _broken(scope: Scope, send: Send) -> None:
    """Log what nobody expected under the id that the client is told, which learns nothing else."""
    visit = Visit("", dict(scope["headers"]))
    _log.exception("request %s failed: %s %r", visit.request_id, scope["method"], scope["path"])
    metrics.REQUESTS["none", 500] += 1
    await send_answer(problem("internal_error", visit.request_id), send)
