"""The baseline: a bare ASGI callable that reads a body, parses it, and decides nothing."""

import sys
from typing import Any

import orjson
import uvicorn


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer every request with the body it sent."""
    body = orjson.loads((await receive())["body"])
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    await send({"type": "http.response.body", "body": orjson.dumps({"id": body["buyer"]})})


if __name__ == "__main__":
    uvicorn.run(
        app, host="127.0.0.1", port=int(sys.argv[1]), lifespan="off", loop="uvloop", http="httptools", access_log=False,
        log_level="warning",
    )  # fmt: skip
