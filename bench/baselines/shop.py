"""What the baselines share: one HTTP interface in plain Starlette, and honest counts of what was answered.

`POST /buy` takes the JSON body of a Gatekeeper purchase with one item. 201 is a promise of units, 409 says sold out,
503 says try again. A baseline's own part is only how it sells.
"""

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from enum import Enum
from typing import ClassVar

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


class Answer(Enum):
    """What became of an order, as an HTTP status."""

    SOLD = 201
    SOLD_OUT = 409
    BUSY = 503
    """Nothing was decided, or the design gave up."""


@dataclass(frozen=True, slots=True)
class Order:
    """One buyer's wish for units of one SKU."""

    buyer: str
    sku: str
    quantity: int
    key: str


@dataclass(slots=True)
class Counts:
    """Answers since the last reset; times are seconds since 1970, 0 = never."""

    waiting: int = 0
    """Requests without an answer yet."""
    sold: int = 0
    sold_out: int = 0
    busy: int = 0
    aborts: int = 0
    """Attempts that had to be thrown away: rolled back, or lost to another buyer's write."""
    first_sale: float = 0.0
    last_sale: float = 0.0


class Shop:
    """One way of selling; a subclass says how."""

    durable: ClassVar[bool] = True

    def __init__(self, redis_url: str, database_url: str) -> None:
        self.redis_url, self.database_url = redis_url, database_url
        self.counts = Counts()

    async def open(self) -> None:
        """Connect."""

    async def sell(self, order: Order) -> Answer:
        """Sell or refuse."""
        raise NotImplementedError

    async def buy(self, request: Request) -> Response:
        """The endpoint."""
        body = orjson.loads(await request.body())
        (item,) = body["items"]
        order = Order(body["buyer"], item["sku"], item["quantity"], request.headers.get("idempotency-key", ""))
        self.counts.waiting += 1
        try:
            answer = await self.sell(order)
        finally:
            self.counts.waiting -= 1
        self._count(answer)
        return Response(orjson.dumps({"answer": answer.name}), answer.value, media_type="application/json")

    def _count(self, answer: Answer) -> None:
        match answer:
            case Answer.SOLD:
                self.counts.sold += 1
                self.counts.last_sale = time.time()
                self.counts.first_sale = self.counts.first_sale or self.counts.last_sale
            case Answer.SOLD_OUT:
                self.counts.sold_out += 1
            case Answer.BUSY:
                self.counts.busy += 1

    async def figures(self, request: Request) -> Response:
        """GET: the counts. DELETE: start again from 0."""
        if request.method == "DELETE":
            self.counts = Counts()
        return Response(orjson.dumps(asdict(self.counts)), media_type="application/json")


def run(kind: type[Shop]) -> None:
    """Serve a baseline: PORT REDIS_URL DATABASE_URL."""
    shop = kind(sys.argv[2], sys.argv[3])

    @asynccontextmanager
    async def opened(_: Starlette) -> AsyncIterator[None]:
        await shop.open()
        yield

    routes = [Route("/buy", shop.buy, methods=["POST"]), Route("/figures", shop.figures, methods=["GET", "DELETE"])]
    uvicorn.run(
        Starlette(routes=routes, lifespan=opened), host="127.0.0.1", port=int(sys.argv[1]), loop="uvloop",
        http="httptools", access_log=False, log_level="warning", timeout_graceful_shutdown=5,
    )  # fmt: skip
