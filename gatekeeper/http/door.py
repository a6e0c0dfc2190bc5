"""What one front door process holds: its Redis client, gate, batcher and keys, and the two tasks that watch them."""

import asyncio
import logging
from contextlib import suppress

import redis.asyncio as aioredis

from gatekeeper import metrics
from gatekeeper.batcher import Batcher
from gatekeeper.errors import GateError, GateUnavailable, SettingsError
from gatekeeper.gate import Gate, connect
from gatekeeper.http.auth import Keyring
from gatekeeper.http.purchase import Desk
from gatekeeper.pipe import Pipe
from gatekeeper.selfcheck import check_redis
from gatekeeper.settings import Settings

RING_SECONDS = 0.05
"""How long an event may wait until the ticker hears of it, and a count until Prometheus may."""
RETRY_SECONDS = 1.0
"""Between two self-checks while Redis is away or wrongly configured."""
CHECK_SECONDS = 5.0
"""Between two self-checks while all is well."""
READ_SECONDS = 0.9
"""How long a read may take in all: an outage is answered within 1 s."""

_log = logging.getLogger(__name__)


class Door:
    """Lives from `start` to `stop`. `desk.closed` is "" once the self-check has passed."""

    def __init__(self, settings: Settings, client: aioredis.Redis | None = None) -> None:
        """Raises SettingsError. `client`: instead of one for settings.redis_url; it is then the caller's to close."""
        self.keyring = Keyring(settings)
        self._settings = settings
        self._given = client
        self._tasks: list[asyncio.Task[None]] = []
        self.stopping = False
        if client is None:
            settings.require("redis_url")
        self.redis = client or connect(settings.redis_url, timeout=settings.redis_timeout)
        self._pipe = None if client else Pipe(self.redis.connection_pool, timeout=settings.redis_timeout)
        self.gate = Gate(self.redis, self._pipe)
        self.batcher = Batcher(self.gate, max_queue=settings.max_queue)
        self.desk = Desk(self.keyring, self.batcher)
        self.desk.closed = "This front door has not checked its Redis yet."

    async def start(self) -> None:
        """Check Redis and begin to serve; raises SettingsError when it must not be used as it is configured.

        A Redis that is away is no mistake of the settings: then this door starts unready and goes on asking.
        """
        with suppress(GateUnavailable):
            if problems := await self._check():
                raise SettingsError("\n".join(("this Redis cannot be trusted with a sale:", *problems)))
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._ring())]

    async def stop(self) -> None:
        """Let what is in flight be answered, tell the ticker of it, and close."""
        self.stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.batcher.drain()
        await self._ring_once()
        metrics.flush()
        if self._pipe:
            await self._pipe.aclose()
        if self._given is None:
            await self.redis.aclose()

    async def unready(self) -> str:
        """Why this door should get no traffic, or "" when it should."""
        if self.stopping:
            return "This front door is stopping."
        if self.desk.closed:
            return self.desk.closed
        try:
            async with asyncio.timeout(READ_SECONDS):
                await self.redis.ping()
        except (aioredis.RedisError, OSError):  # also TimeoutError
            return "Redis does not answer."
        return ""

    async def _check(self) -> list[str]:
        """Open or close the desk as the self-check says; raises GateUnavailable, which by itself closes nothing."""
        problems = await check_redis(self.redis, self._settings.durability)
        closed = f"Redis is not configured as a sale needs it: {problems[0]}" if problems else ""
        if closed != self.desk.closed and problems:
            _log.error("%s", closed)
        self.desk.closed = closed
        return problems

    async def _watch(self) -> None:
        """Check again and again: settings change, and another Redis may have taken over."""
        while True:
            well = False
            try:
                well = not await self._check()
            except GateUnavailable:
                if self.desk.closed:
                    self.desk.closed = "Redis does not answer."
            except Exception:
                _log.exception("the self-check failed")
            self.keyring.refresh()
            await asyncio.sleep(CHECK_SECONDS if well else RETRY_SECONDS)

    async def _ring(self) -> None:
        while True:
            await asyncio.sleep(RING_SECONDS)
            try:
                metrics.flush()
                await self._ring_once()
            except Exception:
                _log.exception("counts or doorbell: tried again")

    async def _ring_once(self) -> None:
        """Hint to the ticker and to expiry; they find what waits without hints too, later."""
        touched, self.batcher.touched = self.batcher.touched, set()
        deadlines, self.batcher.deadlines = self.batcher.deadlines, {}
        if not touched:
            return
        try:
            await self.gate.ring(touched)
            if deadlines:
                await self.gate.remind(deadlines)
        except (GateError, aioredis.RedisError) as error:
            self.batcher.touched |= touched
            self.batcher.deadlines = deadlines | self.batcher.deadlines
            _log.warning("doorbell not rung: %s", error)
