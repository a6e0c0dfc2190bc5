"""A sale for the script tests: built through the real scripts, compared as a whole."""

import asyncio
import re
from collections.abc import Coroutine
from typing import Any, TypeVar

import redis

from gatekeeper import keys
from gatekeeper.gate import Gate, connect
from gatekeeper.model import Decision, Purchase
from gatekeeper.replies import Granted, Swept, Turn
from lua import SCRIPTS

T = TypeVar("T")
SALE = "jackets"
NOUNS = {name: re.findall(r"^-- KEYS: (.+)$", script.text, re.MULTILINE)[0].split() for name, script in SCRIPTS.items()}
"""What each script's header names as its KEYS."""


class Sale:
    """Drives Gate from plain tests, and shows everything that Redis holds."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self.plain = redis.Redis.from_url(url, decode_responses=True)
        self.gate = Gate(connect(url, timeout=5))
        self.run(self.gate.load_scripts())
        self.run(self.gate.publish_catalogue([SALE]))

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(coroutine)

    def control(self, action: str, **fields: str | int):  # type: ignore[no-untyped-def]
        return self.run(self.gate.control(SALE, action, actor="test", **fields))

    def create(self, *, state: str = "open", stock: str = "A:3", **settings: int) -> "Sale":
        """Make a sale in a state, with stock written "A:3 B:1 U:-" (units per SKU, "-" untracked)."""
        terms = {"opens_at": 0, "closes_at": 0, "per_buyer": 0, "hold_ms": 60_000, "backlog_limit": 1000} | settings
        self.control("create", **terms)
        lines = [
            (sku, int(units.strip("-") or 0), units != "-") for sku, units in (x.split(":") for x in stock.split())
        ]
        if lines:
            self.run(self.gate.grant(SALE, 1, lines, actor="test"))
        for action in {"draft": [], "open": ["open"], "paused": ["open", "pause"], "closed": ["open", "close"]}[state]:
            self.control(action)
        return self

    def admit(self, *purchases: Purchase) -> list[Decision]:
        return self.run(self.gate.admit(SALE, purchases))

    def buy(self, items: str = "A:1", *, buyer: str = "bob", key: str = "k1") -> Decision:
        return self.admit(purchase(items, buyer=buyer, key=key))[0]

    def confirm(self, payment: str = "p1", *, id: str = "") -> Turn:
        return self.run(self.gate.confirm(SALE, id or purchase().id, payment, actor="shop"))

    def release(self, reason: str = "cancelled", *, id: str = "", buyer: str = "") -> Turn:
        return self.run(self.gate.release(SALE, id or purchase().id, reason, actor="shop", buyer=buyer))

    def settle(self, refund: str = "r1", *, id: str = "", payment: str = "") -> Turn:
        return self.run(self.gate.settle(SALE, id or purchase().id, refund, actor="shop", payment=payment))

    def expire(self, limit: int = 1000) -> Swept:
        return self.run(self.gate.expire(SALE, limit))

    def overdue(self, *ids: str) -> None:
        """Let the named holds' deadlines have passed (all holds, if none is named)."""
        for id in ids or self.plain.zrange(keys.due(SALE), 0, -1):
            record = self.plain.hget(keys.reservations(SALE), id).split("\n")
            record[4] = str(int(record[3]) - 1)
            self.plain.hset(keys.reservations(SALE), id, "\n".join(record))
            self.plain.zadd(keys.due(SALE), {id: record[4]})

    def grant(self, number: int, *lines: tuple[str, int, bool], reason: str = "delivery") -> Granted:
        return self.run(self.gate.grant(SALE, number, lines, actor="merchant", reason=reason))

    def evaluate(self, verb: str, *args: str | int) -> list[Any]:
        """Call a script past the gate, with arguments that the gate would never send."""
        nouns = NOUNS[verb]
        return self.plain.evalsha(SCRIPTS[verb].sha, len(nouns), *(getattr(keys, noun)(SALE) for noun in nouns), *args)

    def stock(self) -> dict[str, str]:
        return self.plain.hgetall(f"gk1:{{{SALE}}}:stock")

    def events(self) -> list[str]:
        return [fields["event"] for _, fields in self.plain.xrange(f"gk1:{{{SALE}}}:outbox")]

    def snapshot(self) -> dict[str, Any]:
        """Everything in Redis but hints, by key: types, members, stream entries with their ids."""
        read = {
            "hash": self.plain.hgetall,
            "stream": self.plain.xrange,
            "set": self.plain.smembers,
            "zset": lambda key: self.plain.zrange(key, 0, -1, withscores=True),
            "string": self.plain.get,
        }
        found = sorted(set(self.plain.keys()) - {keys.DOORBELL, keys.DEADLINES, keys.HEARTBEATS})
        return {key: read[self.plain.type(key)](key) for key in found}

    def close(self) -> None:
        self.run(self.gate.redis.aclose())
        self._runner.close()
        self.plain.close()


def purchase(items: str = "A:1", *, buyer: str = "bob", key: str = "k1", reference: str = "") -> Purchase:
    """Make a purchase of items written "A:1 B:2"."""
    parts = [(sku, int(units)) for sku, units in (item.split(":") for item in items.split())]
    return Purchase.of(SALE, buyer, key, parts, reference)
