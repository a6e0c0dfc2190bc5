"""What one writes first: look whether there is stock, then take one. Run as `python -m gatekeeper.demo.naive PORT URL`.

Between the look and the taking other buyers look too; that is all it takes to oversell.
"""

import sys

import redis.asyncio as aioredis
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

STOCK = "naive:stock"


def create_app(redis_url: str) -> Starlette:
    """Return the naive shop over a Redis where STOCK is the number of units left."""
    client = aioredis.Redis.from_pool(aioredis.BlockingConnectionPool.from_url(redis_url, max_connections=256))

    async def buy(request: Request) -> Response:
        await request.body()
        if int(await client.get(STOCK) or 0) > 0:
            await client.decr(STOCK)
            return Response(status_code=201)
        return Response(status_code=409)

    return Starlette(routes=[Route("/buy", buy, methods=["POST"])])


if __name__ == "__main__":
    uvicorn.run(create_app(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
