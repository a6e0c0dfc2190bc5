"""Plain writes of a sale's keys, which no script judges: for a repair, under its fence, and for nothing else."""

from collections.abc import Mapping, Sequence

import redis.asyncio as aioredis

from gatekeeper import keys
from gatekeeper.gate import sent
from gatekeeper.model import Counters, Position, Reservation
from lua import VERSION


class Mending:
    """Writes anew what Redis should hold of a sale. Raises GateUnavailable as `Gate` does."""

    def __init__(self, client: aioredis.Redis) -> None:
        self._redis = client

    async def wipe(self, sale: str) -> None:
        """Remove what is about to be written anew; the fence and the outbox stay."""
        nouns = (keys.stock, keys.skus, keys.reservations, keys.buyers, keys.due)
        await sent(self._redis.unlink(*(noun(sale) for noun in nouns)))

    async def write_stock(self, sale: str, counters: Mapping[str, Counters]) -> None:
        """Write counters by SKU."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hset(keys.stock(sale), mapping={sku: c.pack() for sku, c in counters.items()})
            pipe.zadd(keys.skus(sale), dict.fromkeys(counters, 0))
            await sent(pipe.execute())

    async def write_reservations(self, sale: str, reservations: Sequence[Reservation]) -> None:
        """Write records, and deadlines of those that are held."""
        held = {r.id: r.expires_ms for r in reservations if r.state == "held"}
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hset(keys.reservations(sale), mapping={r.id: r.record() for r in reservations})
            if held:
                pipe.zadd(keys.due(sale), held)
            await sent(pipe.execute())

    async def write_buyers(self, sale: str, units: Mapping[str, int]) -> None:
        """Write the units that count against each buyer's limit."""
        await sent(self._redis.hset(keys.buyers(sale), mapping={buyer: str(n) for buyer, n in units.items()}))

    async def write_sale(self, sale: str, cursor: Position, fields: Mapping[str, str | int]) -> None:
        """Write the sale's fields (`fence` among them), and let the outbox end where the ledger is."""
        if await sent(self._redis.type(keys.sale(sale))) != b"hash":
            await sent(self._redis.unlink(keys.sale(sale)))
        known = await sent(self._redis.hget(keys.sale(sale), "epoch"))
        epoch = max(int(fields["epoch"]), cursor.epoch, int(known) if known and known.isdigit() else 0)
        applied = {"applied_epoch": cursor.epoch, "applied_n": cursor.n, "full": 0}
        mended = {"version": VERSION, "replid": "", **fields, "epoch": epoch, **applied}
        last = await self.newest_ever(sale)
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(keys.sale(sale), mapping={name: str(value) for name, value in mended.items()})
            if last is None or last < cursor:  # nobody reads it: the cursor stands there already
                pipe.xadd(keys.outbox(sale), {"event": "repaired\n"}, id=str(cursor))
            await sent(pipe.execute())

    async def newest_ever(self, sale: str) -> Position | None:
        """Return the position of the newest event that ever was, trimmed or not; None without an outbox."""
        if not await sent(self._redis.exists(keys.outbox(sale))):
            return None
        info = await sent(self._redis.xinfo_stream(keys.outbox(sale)))
        return Position.parse(info["last-generated-id"].decode())

    async def set_aside(self, sale: str) -> str:
        """Move an outbox out of the way, for people to look into; returns its new key, "" when there is none."""
        kind = await sent(self._redis.type(keys.outbox(sale)))
        if kind == b"none":
            return ""
        last = await self.newest_ever(sale) if kind == b"stream" else kind.decode()
        aside = f"{keys.outbox(sale)}:until-{last}"
        await sent(self._redis.rename(keys.outbox(sale), aside))
        return aside
