"""What one writes first on Redis: a correct script, called once per request. It keeps stock, orders and events there.

It replays a known idempotency key, as Gatekeeper does, and has no ledger behind it.
"""

import redis
import redis.asyncio as aioredis

from bench.baselines.shop import Answer, Order, Shop, run

STOCK, ORDERS, EVENTS = "shop:stock", "shop:orders", "shop:events"
SCRIPT = """
local stock, orders, events = unpack(KEYS)
local sku, quantity, id, record = unpack(ARGV)
if redis.call('HEXISTS', orders, id) == 1 then
  return 1
end
if tonumber(redis.call('HGET', stock, sku) or '0') < tonumber(quantity) then
  return 0
end
redis.call('XADD', events, '*', 'order', record)
redis.call('HINCRBY', stock, sku, -quantity)
redis.call('HSET', orders, id, record)
return 1
"""


class Evalsha(Shop):
    """One round trip and one fsync per request."""

    async def open(self) -> None:
        pool = aioredis.BlockingConnectionPool.from_url(self.redis_url, max_connections=64)
        self._admit = aioredis.Redis.from_pool(pool).register_script(SCRIPT)

    async def sell(self, order: Order) -> Answer:
        id = f"{order.buyer}/{order.key}"
        record = f"{id}\n{order.sku} {order.quantity}"
        sold = await self._admit(keys=[STOCK, ORDERS, EVENTS], args=[order.sku, order.quantity, id, record])
        return Answer.SOLD if sold else Answer.SOLD_OUT


def stock(redis_url: str, units_by_sku: dict[str, int]) -> None:
    """Make Redis hold exactly this stock and no order."""
    with redis.Redis.from_url(redis_url) as client:
        client.delete(STOCK, ORDERS, EVENTS)
        client.hset(STOCK, mapping={sku: str(units) for sku, units in units_by_sku.items()})


def orders(redis_url: str) -> int:
    """How many orders there are."""
    with redis.Redis.from_url(redis_url) as client:
        return int(client.hlen(ORDERS))


if __name__ == "__main__":
    run(Evalsha)
