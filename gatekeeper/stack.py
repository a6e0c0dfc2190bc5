"""The whole stack on one machine: engines, ledger schema, keys, worker, front door. Used by `up`, `demo` and the tests.

Everything is a child process that dies with this one. A child that dies is started again.
"""

import asyncio
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gatekeeper.embedded import Engine, start_postgres, start_valkey
from gatekeeper.errors import GatekeeperError
from gatekeeper.gate import Gate, connect
from gatekeeper.http.auth import new_key
from gatekeeper.ledger import connect as connect_ledger
from gatekeeper.ledger import migrate, sales
from gatekeeper.process import Child, stop_all
from gatekeeper.settings import Settings

READY_WITHIN = 30.0
PROVEN_WITHIN = 10.0


class StackError(GatekeeperError):
    """The stack could not be started; the text says what to do."""


@dataclass(slots=True)
class Stack:
    """Start it, look after it, stop it. Configured engines are used; the others are started in `data`."""

    data: Path
    port: int
    workers: int = 1
    say: Callable[[str], None] = field(default=lambda line: None)
    settings: Settings = field(default_factory=Settings.load)
    engines: dict[str, Engine] = field(default_factory=dict)
    """Those that run here: valkey, postgres, or neither when both are configured."""
    serve_options: tuple[str, ...] = ()
    """Further words for `gatekeeper serve`."""
    _children: list[Child] = field(default_factory=list)
    _keys: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The front door's."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def redis_url(self) -> str:
        """The gate's Redis."""
        return self.settings.redis_url or self.engines["valkey"].url

    @property
    def database_url(self) -> str:
        """The ledger's Postgres."""
        return self.settings.database_url or self.engines["postgres"].url

    def description(self) -> dict[str, str]:
        """What a client needs to know."""
        return {
            "url": self.url,
            "shop_key": self._keys["shop"],
            "admin_key": self._keys["admin"],
            "redis_url": self.redis_url,
            "database_url": self.database_url,
        }

    def environment(self) -> dict[str, str]:
        """The settings of every process of this stack."""
        return {
            "GATEKEEPER_REDIS_URL": self.redis_url,
            "GATEKEEPER_DATABASE_URL": self.database_url,
            "GATEKEEPER_KEYS_FILE": str(self.data / "keys"),
        }

    def start(self) -> None:
        """Start everything and wait until it answers; raises GatekeeperError, with everything stopped again."""
        try:
            self.data.mkdir(parents=True, exist_ok=True)
            if not self.settings.redis_url:
                self.say("starting Valkey")
                self.engines["valkey"] = start_valkey(self.data / "valkey")
            if not self.settings.database_url:
                self.say("starting Postgres")
                self.engines["postgres"] = start_postgres(self.data / "postgres")
            migrate(self.database_url)
            self._make_keys()
            self.say("starting the worker and the front door")
            self._start_children()
            self._wait_until_ready()
            self._wait_until_proven()
        except BaseException:
            self.stop()
            raise

    def _make_keys(self) -> None:
        """Make one key per role at the first start; the secrets stay readable to their owner only."""
        secrets, hashed = self.data / "secrets.json", self.data / "keys"
        if secrets.exists():
            self._keys = json.loads(secrets.read_text())
            return
        made = {role: new_key(f"{role}-up", role) for role in ("shop", "admin")}
        self._keys = {role: secret for role, (secret, _) in made.items()}
        write_private(hashed, "".join(f"{line}\n" for _, line in made.values()))
        write_private(secrets, json.dumps(self._keys))

    def _start_children(self) -> None:
        serve = ["serve", "--host", "127.0.0.1", "--port", str(self.port), "--workers", str(self.workers)]
        serve += self.serve_options
        for words in (["worker"], serve):
            child = Child(["gatekeeper", *words], self.environment(), self.data / f"{words[0]}.log")
            child.start()
            self._children.append(child)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN
        door = self._children[-1]
        while not self.is_ready():
            if door.died:
                raise StackError(f"the front door did not start: {door.tail()}")
            if time.monotonic() > deadline:
                raise StackError(f"the front door was not ready within {READY_WITHIN:.0f} s; see {door.log}")
            time.sleep(0.05)

    def _wait_until_proven(self) -> None:
        """Wait until the controller has loaded the scripts and proven the sales that were there before."""
        deadline = time.monotonic() + PROVEN_WITHIN
        while unproven := asyncio.run(self._unproven()):
            if time.monotonic() > deadline:
                self.say(f"not proven yet, and answering 503: {unproven}. See `gatekeeper doctor`")
                return
            time.sleep(0.05)

    async def _unproven(self) -> str:
        client = connect(self.redis_url, timeout=5)
        try:
            gate = Gate(client)
            if not await gate.scripts_loaded():
                return "every sale"
            with connect_ledger(self.database_url) as ledger:
                names = sales.live(ledger)
            proven = (await gate.replication()).id
            marks = await gate.marks(names) if names else {}
            return ", ".join(name for name, mark in marks.items() if not mark or mark.fence or mark.replid != proven)
        finally:
            await client.aclose()

    def is_ready(self) -> bool:
        """Whether the front door would decide a purchase now."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=1):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def look_after(self) -> None:
        """Start again what died: engines on the same port and data, the others after a short pause."""
        for name, start in (("valkey", start_valkey), ("postgres", start_postgres)):
            engine = self.engines.get(name)
            if engine is not None and engine.process.poll() is not None:
                self.say(f"{name} ended with {engine.process.returncode}: starting it again")
                self.engines[name] = start(self.data / name, port=engine.port)
        for child in self._children:
            child.keep_alive(self.say)

    def stop(self) -> None:
        """Stop everything in order: front door, worker, engines. What is stopped already is left alone."""
        for child in reversed(self._children):
            stop_all([child])
        for engine in self.engines.values():
            engine.stop()
        self._children.clear()
        self.engines.clear()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, at once or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)


def announce(file: Path, description: dict[str, Any]) -> None:
    """Leave word for the CLI in another terminal."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_private(file, json.dumps({"pid": os.getpid(), **description}))
