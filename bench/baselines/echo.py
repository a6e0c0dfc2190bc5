"""The yardstick: a bare ASGI callable that reads a body, parses it, and decides nothing."""

import sys
from typing import Any

import orjson
import uvicorn


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer every request with its buyer."""
    body = orjson.loads((await receive())["body"])
    answer = orjson.dumps({"id": body["buyer"]})
    # With a length, as any answer should have: without one uvicorn sends it in chunks, which takes longer.
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    uvicorn.run(
        app, host="127.0.0.1", port=int(sys.argv[1]), lifespan="off", loop="uvloop", http="httptools", access_log=False,
        log_level="warning",
    )  # fmt: skip
