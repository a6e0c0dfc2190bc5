"""Payments that race the deadline: however close, a unit is sold or available, and a payment is sold or due back."""

import asyncio
import os
import time
from collections import Counter

import redis.asyncio as aioredis

from gatekeeper import events, keys
from gatekeeper.merchant import stock
from gatekeeper.merchant.stock import Wanted
from gatekeeper.model import Position, Purchase
from gatekeeper.outcomes import Outcome as O
from tests.integration.world import SALE, World
from workers.reconcile import reconcile

RACES = int(os.environ.get("GATEKEEPER_RACES", "10000"))
"""Confirms within 1 ms of their deadline to be seen."""
ROUND = 24
"""Holds of which the deadlines fall together: more take Redis longer than the 2 ms that count."""

SECONDS = 60.0
"""After which fewer will do: on a loaded machine few arrive that close."""
CHUNK = 500
"""Rounds for which stock is stated at once; each has a SKU of its own, of which every unit is held."""

MOVE = """
local time = redis.call('TIME')
local deadline = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1])
for i = 2, #ARGV do
  local head, rest = string.match(redis.call('HGET', KEYS[2], ARGV[i]), '^(%l+\\n%d\\n[^\\n]*\\n%d+\\n)%d+(.*)$')
  redis.call('HSET', KEYS[2], ARGV[i], head .. deadline .. rest)
  redis.call('ZADD', KEYS[1], deadline, ARGV[i])
end
return deadline
"""


async def until(redis: aioredis.Redis, moment_ms: float) -> None:
    """Wait until Redis's clock shows the moment, give or take a fraction of a millisecond."""
    while True:
        seconds, micros = await redis.time()
        if (left := moment_ms / 1000 - seconds - micros / 1e6) <= 0:
            return
        await asyncio.sleep(left - 0.003 if left > 0.004 else 0)


async def race(w: World, number: int) -> list[str]:
    """One round: deadlines that fall together; payments, the sweep and other buyers arrive at that very moment."""
    purchases = [Purchase.of(SALE, f"b{number}-{i}", "k", [(f"S{number}", 1)]) for i in range(ROUND)]
    decisions = await w.gate.admit(SALE, purchases)
    assert {d.outcome for d in decisions} == {O.ADMITTED}
    ids = [p.id for p in purchases]
    deadline = int(await w.gate.redis.eval(MOVE, 2, keys.due(SALE), keys.reservations(SALE), 6, *ids))

    async def pay(mine: list[str]) -> None:
        await until(w.gate.redis, deadline - 0.7)
        for id in mine:
            await w.gate.confirm(SALE, id, f"p-{id}", actor="shop")

    async def sweep() -> None:
        await until(w.gate.redis, deadline - 0.3)
        for _ in range(4):
            await w.gate.expire(SALE, 5)
        await w.gate.expire(SALE, 1000)

    async def snatch() -> None:
        await until(w.gate.redis, deadline)
        for i in range(3):
            await w.gate.admit(SALE, [Purchase.of(SALE, f"s{number}-{i}", "k", [(f"S{number}", 1)])])

    await asyncio.gather(pay(ids[::3]), pay(ids[1::3]), pay(ids[2::3]), sweep(), snatch())
    return ids


async def confirmed_since(w: World, position: Position, deadlines: dict[str, int]) -> tuple[Position, Counter[int]]:
    """How many ms after its deadline each confirm was decided, by Redis's own clock."""
    off: Counter[int] = Counter()
    for place, payload in await w.gate.events(SALE, position, 10_000):
        event, position = events.parse(payload), place
        if isinstance(event, events.Confirm):
            off[event.at_ms - deadlines[event.id]] += 1
    return position, off


def test_payments_that_race_their_deadline_end_as_a_sale_or_a_refund(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        started = time.monotonic()
        off: Counter[int] = Counter()
        position, paid, number = Position(1, -1), set[str](), 0
        while off[-1] + off[0] + off[1] < RACES and time.monotonic() - started < SECONDS:
            if number % CHUNK == 0:
                wanted = [Wanted(f"S{i}", ROUND) for i in range(number, number + CHUNK)]
                await stock.state(w.gate, w.ledger, SALE, lambda _, wanted=wanted: wanted, actor="test")
            ids = await race(w, number)
            paid |= {f"p-{id}" for id in ids}
            records = await w.gate.redis.hmget(keys.reservations(SALE), ids)
            deadlines = {id: int(r.split(b"\n")[4]) for id, r in zip(ids, records, strict=True)}
            position, found = await confirmed_since(w, position, deadlines)
            off += found
            number += 1
        assert off[-1] + off[0] + off[1] >= min(RACES, 1000)
        c = await w.gate.counters(SALE)
        assert all(s.available + s.held + s.sold == s.granted for s in c.values())
        await w.drain()
        report = await reconcile(w.gate, w.ledger, SALE, keep=100_000)
        assert report.drift == []
        rows = w.ledger.execute("SELECT payment, state FROM payments").fetchall()
        assert len(rows) == len(paid) and {payment for payment, _ in rows} == paid  # each once: not both, not neither
        states = Counter(state for _, state in rows)
        assert states.keys() == {"sold", "refund_due"}
        sold = w.ledger.execute("SELECT late, count(*) FROM reservations WHERE state = 'sold' GROUP BY 1").fetchall()
        ends = dict(sold)
        assert sum(ends.values()) == states["sold"] == sum(s.sold for s in c.values())
        assert ends[True] and ends[False]
        late = f"{ends[True]} late, {ends[False]} in time"
        print(f"{number} rounds; ms after the deadline: {sorted(off.items())}; {dict(states)}; of the sold {late}")

    world(story)
