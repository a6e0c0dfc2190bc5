"""The gate: one method per script, and the only caller of Redis for a sale but for a repair (mending.py).

Every method raises GateUnavailable (no answer: the outcome is unknown), Overloaded (nothing was sent), SaleFenced or
UnknownSale (errors.py), and InvalidInput for what a script would take for damage. Expected refusals are values: the
reply's Outcome.
"""

import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import redis.asyncio as aioredis
from redis import exceptions as rex
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gatekeeper import keys, metrics
from gatekeeper.errors import GateError, GateUnavailable, InvalidInput, SaleArchived, SaleFenced, UnknownSale
from gatekeeper.model import (
    MAX_INT,
    MAX_TIME_MS,
    Checked,
    Counters,
    Decision,
    Position,
    Purchase,
    Reservation,
    SaleView,
)
from gatekeeper.outcomes import OUTCOMES, Outcome
from gatekeeper.pipe import Pipe
from gatekeeper.replies import Changed, Granted, Lacking, Mark, Refusal, Replication, Swept, Turn, decisions
from lua import SCRIPTS

_NO_ANSWER = (
    rex.ConnectionError,  # also BusyLoading, and authentication
    rex.TimeoutError,
    rex.OutOfMemoryError,  # refused at the script's first write: nothing was written
    rex.ReadOnlyError,
    rex.MasterDownError,
    rex.ClusterDownError,
    OSError,
)


def connect(url: str, *, timeout: float | None, connections: int = 8) -> aioredis.Redis:
    """Return a client for `url`; `timeout` in seconds for connecting and for each reply, None waits forever.

    No retries: redis-py's default would send one EVALSHA again and again on a timeout, and what a timeout means is
    for the caller to decide.
    """
    pool = aioredis.BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=timeout,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
    )
    return aioredis.Redis.from_pool(pool)


async def sent(command: Awaitable[Any]) -> Any:
    """Return what Redis answers; raises GateUnavailable when it gives none, and redis.exceptions for its errors."""
    try:
        return await command
    except _NO_ANSWER as error:
        raise GateUnavailable(f"no answer from Redis ({type(error).__name__}): the outcome is unknown") from error


Reply = list[Any] | Refusal
Noun = Callable[[str], str]
Arg = str | int
HOLD_KEYS = (keys.sale, keys.stock, keys.reservations, keys.buyers, keys.due, keys.outbox)
CONTROL_KEYS = (keys.sale, keys.stock, keys.reservations, keys.buyers, keys.due, keys.outbox, keys.skus)


MAX_BATCH = 1000
"""Items in one call of `admit`: as many values as Lua can hand to one command."""

_BOUNDS = {
    "opens_at": (0, MAX_TIME_MS),
    "closes_at": (0, MAX_TIME_MS),
    "per_buyer": (0, MAX_INT),
    "hold_ms": (1, MAX_INT),
    "backlog_limit": (1, MAX_INT),
}
_TEXTS = ("sku", "reason", "last_id", "fence")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")


class Gate:
    """All verbs of a sale over one Redis client (which is the caller's to close)."""

    def __init__(self, client: aioredis.Redis, pipe: Pipe | None = None) -> None:
        """`pipe`: the way of the scripts, where many of them run at once; else they go through the client, too."""
        self.redis = client
        self._execute: Callable[..., Awaitable[Any]] = pipe.call if pipe else client.execute_command
        # The highest epoch seen per sale: a Redis that shows an older one holds older data.
        self._epochs: dict[str, int] = {}

    # ── verbs ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def admit(self, sale: str, purchases: Sequence[Purchase]) -> list[Decision]:
        """Decide purchases of one sale in one step; returns one Decision per purchase, in order.

        Raises ValueError for more than MAX_BATCH items in all.
        """
        if (items := sum([len(purchase.items) for purchase in purchases])) > MAX_BATCH:
            raise ValueError(f"a batch of {items} items: expected at most {MAX_BATCH}")
        args = [arg for purchase in purchases for arg in (purchase.id, purchase.particulars)]
        now, expires, *replies = _accepted(await self._call("admit", sale, HOLD_KEYS, args))
        return decisions(purchases, now, expires, replies)

    async def confirm(self, sale: str, id: str, payment: str, *, actor: str) -> Turn:
        """Turn a hold into a sale; a payment that cannot become one is recorded as due back."""
        args = [id, _text("actor", actor), _text("payment", payment)]
        return _turn(sale, id, await self._call("confirm", sale, HOLD_KEYS, args))

    async def release(self, sale: str, id: str, reason: str, *, actor: str, buyer: str = "") -> Turn:
        """Give a hold's units back, or (reason `refund` or `rejected`) a sale's; `buyer`: only if it is his hold."""
        args = [id, _text("actor", actor), _text("reason", reason), buyer]
        return _turn(sale, id, await self._call("release", sale, HOLD_KEYS, args))

    async def settle(self, sale: str, id: str, refund: str, *, actor: str, payment: str = "") -> Turn:
        """Record the refund of a payment that was due back; `payment`: which, if several are."""
        args = [id, _text("actor", actor), _text("refund", refund), payment]
        return _turn(sale, id, await self._call("settle", sale, (keys.sale, keys.reservations, keys.outbox), args))

    async def discard(self, sale: str, id: str, reason: str, *, actor: str) -> Turn:
        """Undo a reservation that the ledger could not take; the event tells the ledger what it is now."""
        args = [id, _text("actor", actor), _text("reason", reason)]
        return _turn(sale, id, await self._call("discard", sale, HOLD_KEYS, args))

    async def expire(self, sale: str, limit: int) -> Swept:
        """Give back the units of ≤ `limit` (1 to 1,000) holds that are past their deadline."""
        return Swept(*_accepted(await self._call("expire", sale, HOLD_KEYS, [limit])))

    async def reservation(self, sale: str, id: str) -> Reservation | None:
        """Read one reservation; None when there is none of that id."""
        reply = await self._call("reservation", sale, (keys.sale, keys.reservations), [id])
        return None if isinstance(reply, Refusal) else Reservation.from_record(sale, id, reply[1].decode())

    async def availability(
        self, sale: str, *, skus: Sequence[str] = (), after: str = "", limit: int = 100
    ) -> SaleView | tuple[str, ...]:
        """Read the sale and the named SKUs, or a page of ≤ `limit` SKUs; or return the names that do not exist."""
        names = (keys.sale, keys.stock, keys.skus, keys.due, keys.outbox)
        reply = await self._call("availability", sale, names, [after, limit, *skus])
        if isinstance(reply, Refusal):
            return tuple(sku.decode() for sku in reply.details)
        now, state, opens, closes, per_buyer, hold, count, next_, *rest = reply
        pending, since, deadline, checkpoint, full, *flat = rest
        counters = {sku.decode(): Counters.unpack(packed.decode()) for sku, packed in _pairs(flat)}
        epoch = self._epochs[sale]
        numbers = opens, closes, per_buyer, hold, count
        lag = pending, since, deadline, Checked.parse(checkpoint.decode()), bool(full)
        return SaleView(sale, epoch, now, state.decode(), *numbers, next_.decode(), *lag, counters)

    async def grant(
        self, sale: str, number: int, lines: Iterable[tuple[str, int, bool]], *, actor: str, reason: str = ""
    ) -> Granted:
        """Apply grant `number` (the last + 1): lines of (SKU, units, tracked), all or none; negative takes back."""
        flat = [arg for sku, delta, tracked in lines for arg in (_text("sku", sku), delta, int(tracked))]
        _text("actor", actor), _text("reason", reason, empty=True)
        names = (keys.sale, keys.stock, keys.skus, keys.outbox)
        reply = await self._call("grant", sale, names, [number, actor, reason, *flat])
        if not isinstance(reply, Refusal):
            return Granted(Outcome.OK, reply[0])
        if reply.outcome is Outcome.NOT_AVAILABLE:
            rows = (reply.details[i : i + 5] for i in range(0, len(reply.details), 5))
            return Granted(reply.outcome, lacking=tuple(Lacking(sku.decode(), *counts) for sku, *counts in rows))
        if reply.outcome in (Outcome.TOO_LARGE, Outcome.TRACKING_FIXED):
            return Granted(reply.outcome, sku=reply.details[0].decode())
        return Granted(reply.outcome, *reply.details)

    async def checkpoint(self, sale: str, skus: Sequence[str]) -> Position:
        """Append an event with Redis's counters of ≤ 1,000 SKUs; returns its position."""
        names = (keys.sale, keys.stock, keys.outbox)
        reply = await self._call("checkpoint", sale, names, skus)
        return Position(self._epochs[sale], _accepted(reply)[0])

    async def control(self, sale: str, action: str, *, actor: str, **fields: str | int) -> Changed:
        """Run one of lua/control.lua's actions with its fields; returns what changed, or the refusal."""
        args = [action, _text("actor", actor), *(part for pair in _checked(fields).items() for part in pair)]
        reply = await self._call("control", sale, CONTROL_KEYS, args)
        if isinstance(reply, Refusal):
            return Changed(reply.outcome, detail=b" ".join(reply.details).decode())
        return Changed(Outcome.OK, reply[0].decode(), bool(reply[1]))

    # ── the outbox, for the drain ────────────────────────────────────────────────────────────────────────────────

    async def events(self, sale: str, after: Position, count: int) -> list[tuple[Position, bytes]]:
        """Return ≤ `count` events after a position, in order, of its epoch and later ones."""
        entries = await sent(self.redis.xrange(keys.outbox(sale), min=str(after.next), count=count))
        return [(Position.parse(id.decode()), fields.get(b"event", b"")) for id, fields in entries]

    async def last_positions(self, sales: Sequence[str]) -> dict[str, Position]:
        """Return the position of each sale's newest event; sales without an outbox are left out."""
        async with self.redis.pipeline(transaction=False) as pipe:
            for sale in sales:
                pipe.xrevrange(keys.outbox(sale), count=1)
            replies = await sent(pipe.execute(raise_on_error=False))
        found = zip(sales, replies, strict=True)
        return {
            sale: Position.parse(reply[0][0].decode()) for sale, reply in found if reply and isinstance(reply, list)
        }

    async def last_position(self, sale: str) -> Position | None:
        """Return the position of the sale's newest event; None without an outbox."""
        return (await self.last_positions([sale])).get(sale)

    async def applied(self, sale: str, position: Position, *, keep: int, checkpoint: str = "") -> None:
        """Tell the sale how far the ledger is, let admission go on, and trim what lies `keep` events behind.

        `checkpoint`: what the newest comparison came to, "result position at_ms skus"; "" leaves the last one. The
        word of a slower worker, or about a sale that Redis lost, changes nothing.
        """
        names = [noun(sale) for noun in (keys.sale, keys.outbox)]
        args = (position.epoch, position.n, keep, checkpoint)
        try:
            await sent(self.redis.evalsha(SCRIPTS["applied"].sha, len(names), *names, *args))
        except rex.ResponseError as error:  # scripts lost, or damage: whoever sells next finds out
            raise self._count("applied", SaleFenced(f"script applied failed: {error}")) from error

    # ── proof, for the controller ────────────────────────────────────────────────────────────────────────────────

    async def replication(self) -> Replication:
        """Return who this Redis is, and whom it took over from."""
        info = await sent(self.redis.info("replication"))
        return Replication(str(info["master_replid"]), str(info["master_replid2"]))

    async def marks(self, sales: Sequence[str]) -> dict[str, Mark | None]:
        """Return what each sale was proven on; None for a sale whose state Redis lacks."""
        async with self.redis.pipeline(transaction=False) as pipe:
            for sale in sales:
                pipe.hmget(keys.sale(sale), "version", "replid", "fence")
            replies = await sent(pipe.execute(raise_on_error=False))
        found = zip(sales, replies, strict=True)
        return {
            sale: Mark(*(part.decode() for part in reply)) if isinstance(reply, list) and None not in reply else None
            for sale, reply in found
        }

    async def counters(self, sale: str) -> dict[str, Counters]:
        """Return every SKU's counters, fenced or not; raises ValueError when one is malformed."""
        packed = await sent(self.redis.hgetall(keys.stock(sale)))
        return {sku.decode(): Counters.unpack(counts.decode()) for sku, counts in packed.items()}

    async def sku_names(self, sale: str, after: str, limit: int) -> list[str]:
        """Return the ≤ `limit` SKUs that follow `after` in byte order, fenced or not."""
        least = f"({after}" if after else "-"
        names = await sent(self.redis.zrangebylex(keys.skus(sale), least, "+", start=0, num=limit))
        return [sku.decode() for sku in names]

    async def known(self, sale: str, ids: Sequence[str]) -> int:
        """Return how many of these reservations Redis holds, fenced or not."""
        found = await sent(self.redis.hmget(keys.reservations(sale), list(ids))) if ids else []
        return sum(record is not None for record in found)

    async def record(self, sale: str, id: str) -> Reservation | None:
        """Read one reservation, fenced or not; None when there is none, or it is damaged."""
        with suppress(ValueError, rex.ResponseError):
            record = await sent(self.redis.hget(keys.reservations(sale), id))
            return Reservation.from_record(sale, id, record.decode()) if record else None
        return None

    async def hold_count(self, sale: str) -> int:
        """Return how many holds have a deadline, fenced or not."""
        return int(await sent(self.redis.zcard(keys.due(sale))))

    async def buyer_units(self, sale: str) -> int:
        """Return the units that all buyers' counts come to, fenced or not; raises ValueError when it is malformed."""
        return int(await sent(self.redis.hget(keys.sale(sale), "buyer_units")) or "")

    async def reservation_count(self, sale: str) -> int:
        """Return how many reservations Redis holds of a sale, fenced or not."""
        return int(await sent(self.redis.hlen(keys.reservations(sale))))

    async def footprint(self, sale: str) -> tuple[int, int, int, int]:
        """Return a sale's reservations, SKUs and events in Redis, and the bytes that it takes as Redis estimates."""
        async with self.redis.pipeline(transaction=False) as pipe:
            pipe.hlen(keys.reservations(sale))
            pipe.zcard(keys.skus(sale))
            pipe.xlen(keys.outbox(sale))
            for noun in CONTROL_KEYS:
                pipe.memory_usage(noun(sale))
            reservations, skus, events, *sizes = await sent(pipe.execute())
        return reservations, skus, events, sum(size or 0 for size in sizes)

    def epoch(self, sale: str) -> int:
        """Return the newest epoch that was seen of a sale; 0 = none."""
        return self._epochs.get(sale, 0)

    async def has_state(self, sale: str) -> bool:
        """Whether Redis holds the sale's own fields."""
        try:
            return bool(await sent(self.redis.hexists(keys.sale(sale), "version")))
        except rex.ResponseError:  # it is no hash: no script answers
            return False

    # ── scripts, catalogue and doorbell ──────────────────────────────────────────────────────────────────────────

    async def scripts_loaded(self) -> bool:
        """Whether Redis knows every script; it forgets them when it restarts."""
        return all(await sent(self.redis.script_exists(*(script.sha for script in SCRIPTS.values()))))

    async def load_scripts(self) -> None:
        """Load every script. Only the controller may: a missing script is how a restarted Redis gives itself away."""
        for script in SCRIPTS.values():
            await sent(self.redis.script_load(script.text))

    async def catalogue_published(self) -> bool:
        """Whether the catalogue names every sale: only then a sale that it lacks does not exist."""
        return bool(await sent(self.redis.sismember(keys.CATALOGUE, keys.CATALOGUE_MARK)))

    async def publish_catalogue(self, sales: Iterable[str]) -> None:
        """Record that these are all the sales there are. Only the controller, who asks the ledger, may."""
        await sent(self.redis.sadd(keys.CATALOGUE, keys.CATALOGUE_MARK, *sales))

    async def enter_catalogue(self, sale: str) -> None:
        """Record one more sale; says nothing of the others."""
        await sent(self.redis.sadd(keys.CATALOGUE, sale))

    async def leave_catalogue(self, sale: str) -> None:
        """Forget a deleted sale."""
        await sent(self.redis.srem(keys.CATALOGUE, sale))

    async def ring(self, sales: Iterable[str]) -> None:
        """Hint to the ticker that these sales have new events."""
        await sent(self.redis.sadd(keys.DOORBELL, *sales))

    async def rung(self, count: int) -> list[str]:
        """Take ≤ `count` sales that rang."""
        return [sale.decode() for sale in await sent(self.redis.spop(keys.DOORBELL, count))]

    async def remind(self, deadlines: Mapping[str, int]) -> None:
        """Hint to expiry that a hold of each sale ends then (ms of Redis's clock); an earlier hint stands."""
        await sent(self.redis.zadd(keys.DEADLINES, dict(deadlines), lt=True))

    async def due(self, count: int) -> tuple[int, list[str]]:
        """Return Redis's time in ms, and ≤ `count` sales of which a hold should have ended, the most overdue first."""
        seconds, micros = await sent(self.redis.time())
        now = seconds * 1000 + micros // 1000
        sales = await sent(self.redis.zrangebyscore(keys.DEADLINES, "-inf", now, start=0, num=count))
        return now, [sale.decode() for sale in sales]

    async def forget_deadline(self, sale: str) -> None:
        """Drop the hint of a sale that is about to be swept."""
        await sent(self.redis.zrem(keys.DEADLINES, sale))

    async def first_deadlines(self, sales: Sequence[str]) -> dict[str, int]:
        """Return the deadline (ms) of the first hold of each sale that has one, fenced or not."""
        async with self.redis.pipeline(transaction=False) as pipe:
            for sale in sales:
                pipe.zrange(keys.due(sale), 0, 0, withscores=True)
            replies = await sent(pipe.execute(raise_on_error=False))
        found = zip(sales, replies, strict=True)
        return {sale: int(reply[0][1]) for sale, reply in found if reply and isinstance(reply, list)}

    async def catalogue_page(self, cursor: int, count: int) -> tuple[int, list[str]]:
        """Return the next sales of the catalogue and where to go on (0: that was all); some may come twice."""
        cursor, members = await sent(self.redis.sscan(keys.CATALOGUE, cursor, count=count))
        return cursor, [name for name in (member.decode() for member in members) if name != keys.CATALOGUE_MARK]

    async def beat(self, name: str, now_ms: int) -> None:
        """Leave word that a part of the worker is alive."""
        await sent(self.redis.hset(keys.HEARTBEATS, name, str(now_ms)))

    async def heartbeat(self, name: str) -> int:
        """Return when a part of the worker last left word, in ms of Redis's clock; 0 = never."""
        return int(await sent(self.redis.hget(keys.HEARTBEATS, name)) or 0)

    async def newly_fenced(self, count: int) -> list[str]:
        """Take ≤ `count` sales that fenced themselves."""
        return [sale.decode() for sale in await sent(self.redis.spop(keys.FENCED, count))]

    # ── how a script is called ───────────────────────────────────────────────────────────────────────────────────

    async def _call(self, name: str, sale: str, nouns: Sequence[Noun], args: Sequence[Arg]) -> Reply:
        """Call a script on the sale's keys; returns what follows `ok epoch` in its reply, or its Refusal."""
        started = time.perf_counter()
        floor = self._epochs.get(sale, 0)
        try:
            names = [noun(sale) for noun in nouns]
            reply = await sent(self._execute("EVALSHA", SCRIPTS[name].sha, len(names), *names, floor, *args))
        except rex.NoScriptError as error:
            raise self._count(name, SaleFenced("Redis lost its scripts: it restarted, or is another one")) from error
        except rex.ResponseError as error:
            raise self._count(name, await self._fence(sale, name, str(error))) from error
        except GateError as error:
            raise self._count(name, error) from error.__cause__
        metrics.script_seconds(name).observe(time.perf_counter() - started)
        outcome = OUTCOMES[reply[0]]
        if outcome is Outcome.OK:
            self._epochs[sale] = max(floor, reply[1])
            accepted: list[Any] = reply[2:]
            return accepted
        if outcome is Outcome.SALE_FENCED:
            raise self._count(name, SaleFenced(reply[1].decode()))
        if outcome is Outcome.UNKNOWN_SALE:
            raise self._count(name, await self._missing(sale))
        if outcome is Outcome.SALE_ARCHIVED:
            raise self._count(name, SaleArchived(f"sale {sale} is archived: its books are in the ledger"))
        return Refusal(outcome, reply[1:])

    async def _fence(self, sale: str, script: str, error: str) -> GateError:
        """Fence a sale whose script failed: Lua rolls nothing back, so its state is unproven from here on."""
        reason = _CONTROL_CHARACTER.sub("?", f"script {script} failed: {error}")
        with suppress(GateUnavailable, rex.ResponseError):
            names = [noun(sale) for noun in CONTROL_KEYS]
            args = (0, "fence", "gate", "reason", reason)
            reply = await sent(self.redis.evalsha(SCRIPTS["control"].sha, len(names), *names, *args))
            if reply[0] == Outcome.OK.encode():
                await sent(self.redis.sadd(keys.FENCED, sale))
        return SaleFenced(reason)

    async def _missing(self, sale: str) -> GateError:
        """Tell a sale that does not exist from one that Redis lost."""
        mark, known = await sent(self.redis.smismember(keys.CATALOGUE, [keys.CATALOGUE_MARK, sale]))
        if mark and not known:
            return UnknownSale(f"there is no sale {sale}")
        return SaleFenced("Redis lacks this sale's state" if known else "Redis lacks the catalogue")

    @staticmethod
    def _count(script: str, error: GateError) -> GateError:
        metrics.script_errors(script, type(error).__name__).inc()
        return error


def _turn(sale: str, id: str, reply: Reply) -> Turn:
    if isinstance(reply, Refusal):
        return Turn(reply.outcome)
    code, record, changed = reply
    return Turn(OUTCOMES[code], Reservation.from_record(sale, id, record.decode()), bool(changed))


def _checked(fields: dict[str, str | int]) -> dict[str, str | int]:
    """Return what `control` is to be told, or raise InvalidInput naming the field."""
    for name, value in fields.items():
        if name in _BOUNDS:
            least, most = _BOUNDS[name]
            if type(value) is not int or not least <= value <= most:
                raise InvalidInput(f"{name}: expected a whole number from {least} to {most}, not {value!r}")
        elif name in _TEXTS:
            _text(name, value, empty=name == "fence")
        else:
            raise InvalidInput(f"{name}: expected one of {', '.join((*_BOUNDS, *_TEXTS))}")
    return fields


def _text(name: str, value: str | int, *, empty: bool = False) -> str | int:
    if not isinstance(value, str) or not (value or empty) or _CONTROL_CHARACTER.search(value):
        raise InvalidInput(
            f"{name}: expected text{'' if empty else ', not empty,'} without control characters, not {value!r}"
        )
    return value


def _accepted(reply: Reply) -> list[Any]:
    if isinstance(reply, Refusal):
        raise AssertionError(f"unexpected refusal {reply.outcome}")
    return reply


def _pairs(flat: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)
