"""A front door as a process of its own, and a client that shows everything it answers."""

import http.client
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any, NamedTuple

from gatekeeper.embedded import free_port
from gatekeeper.http.auth import hash_key

KEYS = ",".join(f"{name}:{name}:{hash_key(name)}" for name in ("shop", "admin"))
TOKEN_SECRET = "a shared secret of at least 32 bytes"


class Answer(NamedTuple):
    """Status, headers (lower case) and the body as JSON, or as text."""

    status: int
    headers: dict[str, str]
    body: Any

    @property
    def code(self) -> str:
        return self.body["code"]


class FrontDoor:
    """`gatekeeper serve` on a free port of loopback."""

    def __init__(self, redis_url: str, *words: str, workers: int = 1, **settings: str) -> None:
        self.port = free_port()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GATEKEEPER_")}
        environment |= {"GATEKEEPER_REDIS_URL": redis_url, "GATEKEEPER_KEYS": KEYS}
        environment |= {"GATEKEEPER_BUYER_TOKEN_KEY": TOKEN_SECRET, **settings}
        command = [sys.executable, "-m", "gatekeeper", "serve", "--port", str(self.port)]
        command += ["--workers", str(workers), *words]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def wait(self, path: str = "/readyz") -> "FrontDoor":
        """Wait until it answers 200 on `path`."""
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=1):
                    return self
            except (urllib.error.URLError, OSError):
                time.sleep(0.03)
        raise AssertionError("the front door did not answer")

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            text = response.read()
            found = {name.lower(): value for name, value in response.getheaders()}
        finally:
            connection.close()
        is_json = "json" in found.get("content-type", "")
        return Answer(response.status, found, json.loads(text) if is_json and text else text.decode())

    def get(self, path: str, *, who: str = "shop", **headers: str) -> Answer:
        return self.send("GET", path, Authorization=f"Bearer {who}", **headers)

    def post(self, path: str, body: Any = None, *, who: str = "shop", **headers: str) -> Answer:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        headers = {"Content_Type": "application/json", **headers}
        return self.send("POST", path, data, Authorization=f"Bearer {who}", **headers)

    def buy(self, sale: str = "jackets", *items: tuple[str, int], buyer: str = "bob", who: str = "shop", key: str = ""):  # type: ignore[no-untyped-def]
        cart = [{"sku": sku, "quantity": units} for sku, units in items or [("A", 1)]]
        headers = {"Idempotency_Key": key} if key else {}
        return self.post(f"/v1/sales/{sale}/reservations", {"buyer": buyer, "items": cart}, who=who, **headers)

    def stop(self) -> int:
        self.process.terminate()
        code = self.process.wait(20)
        assert self.process.stderr
        self.process.stderr.close()
        return code
