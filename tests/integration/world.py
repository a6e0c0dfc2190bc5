"""One sale between a real Redis and a real Postgres, for tests of what happens between them."""

from typing import Any

from gatekeeper import keys
from gatekeeper.gate import Gate, connect
from gatekeeper.ledger import connect as connect_ledger
from gatekeeper.merchant import sales, stock
from gatekeeper.merchant.stock import Wanted
from gatekeeper.model import Counters, Purchase
from gatekeeper.outcomes import Outcome
from gatekeeper.settings import Settings
from workers.connections import Connections
from workers.drain import Drained, drain
from workers.reconcile import reconcile

SALE = "jackets"
KEEP = 100_000


OVERDUE = """
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[1])) do
  local head, created, rest = string.match(redis.call('HGET', KEYS[2], id), '^(%l+\\n%d\\n[^\\n]*\\n)(%d+)\\n%d+(.*)$')
  local past = string.format('%d', created - 1)
  redis.call('HSET', KEYS[2], id, head .. created .. '\\n' .. past .. rest)
  redis.call('ZADD', KEYS[1], past, id)
end
"""


def purchase(number: int) -> Purchase:
    """The purchase of one unit of A by buyer `number`."""
    return Purchase.of(SALE, f"buyer-{number}", f"key-{number}", [("A", 1)])


class World:
    """One sale of 100 units between a real Redis and a real Postgres."""

    def __init__(self, redis_url: str, database_url: str) -> None:
        self.redis_url, self.database_url = redis_url, database_url
        self.gate = Gate(connect(redis_url, timeout=2))
        self.ledger = connect_ledger(database_url)
        self._connections: Connections | None = None

    async def open(self, *, units: int = 100, per_buyer: int = 0, state: str = "open") -> None:
        await self.gate.load_scripts()
        terms = sales.Terms(per_buyer=per_buyer)
        await sales.create(self.gate, self.ledger, SALE, terms, backlog_limit=1_000_000, actor="test")
        await stock.state(self.gate, self.ledger, SALE, lambda _: [Wanted("A", units)], actor="test")
        if state == "open":
            await self.gate.control(SALE, "open", actor="test")

    async def buy(self, first: int, count: int) -> int:
        """Let buyers first, first + 1, … buy one unit each; returns how many were admitted."""
        purchases = [purchase(i) for i in range(first, first + count)]
        decisions = await self.gate.admit(SALE, purchases)
        return sum(decision.outcome is Outcome.ADMITTED for decision in decisions)

    async def overdue(self) -> None:
        """Let the deadlines of all holds have passed."""
        await self.overdue_some(-1)

    async def overdue_some(self, count: int) -> None:
        """Let the deadlines of the first `count` holds have passed; -1: of all."""
        nouns = [keys.due(SALE), keys.reservations(SALE)]
        await self.gate.redis.eval(OVERDUE, 2, *nouns, max(count - 1, -1))

    async def drain(self, *, keep: int = KEEP) -> Drained:
        return await drain(self.gate, self.ledger, SALE, keep=keep)

    def one(self, query: str, *values: object) -> tuple[Any, ...]:
        row = self.ledger.execute(query, values).fetchone()
        assert row
        return row

    def inventory(self) -> tuple[Any, ...]:
        return self.one("SELECT capacity, granted, held, sold FROM inventory")

    async def assert_exactly_once(self, sold: int) -> None:
        """Ledger and Redis hold these reservations, each once, and agree at the same position."""
        assert self.one("SELECT count(*), count(DISTINCT id) FROM reservations") == (sold, sold)
        assert self.one("SELECT count(*) FROM movements WHERE reason = 'admit'") == (sold,)
        assert self.inventory() == (100, 100, sold, 0)
        assert (await self.gate.counters(SALE))["A"] == Counters(100 - sold, sold, 0, 100)
        report = await reconcile(self.gate, self.ledger, SALE, keep=KEEP)
        assert (report.skus_compared, report.drift) == (1, [])
        assert self.one("SELECT count(*) FROM quarantine") == (0,)

    def connections(self) -> Connections:
        """Connections as a worker's part wants them, closed with the world."""
        if self._connections is None:
            self._connections = Connections(Settings(redis_url=self.redis_url, database_url=self.database_url))
        return self._connections

    async def close(self) -> None:
        if self._connections is not None:
            await self._connections.close()
        self.ledger.close()
        await self.gate.redis.aclose()
