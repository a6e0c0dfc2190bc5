"""Natural micro-batching: whatever arrives while a call is in flight goes out together. No timers, no waiting.

One script call then decides, and one fsync makes durable, many purchases (docs/internals.md).
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from gatekeeper import metrics
from gatekeeper.errors import GateUnavailable, Overloaded
from gatekeeper.model import Decision, Purchase
from gatekeeper.outcomes import Outcome

_log = logging.getLogger(__name__)

MAX_ITEMS = 128
"""Items in one call: bounds how long one script may hold Redis (≈ 1 ms)."""
MAX_IN_FLIGHT = 4
"""Calls of one sale at once: while one is decided and made durable, others are on their way there or back."""
SMALL = 32
"""Items. A smaller call is sent only while fewer than MAX_SMALL are under way: few large ones cost less than many."""
MAX_SMALL = 2
"""Calls of less than SMALL items at once."""
AT_ONCE = 32
"""Answers in one round of the event loop, which writes them at its end: clients need not wait for the whole batch."""


class Admits(Protocol):
    """The one verb that the batcher calls (`Gate.admit`)."""

    async def admit(self, sale: str, purchases: Sequence[Purchase]) -> list[Decision]: ...


Done = Callable[[Decision | Exception], None]
"""Hears once what became of a purchase; whatever it raises is logged and harms no other."""

Waiting = tuple[Purchase, Done]


class Lane:
    """One sale's waiting purchases and calls in flight."""

    __slots__ = ("in_flight", "items", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Waiting] = deque()
        self.items = 0  # of all who wait
        self.in_flight = 0

    def add(self, purchase: Purchase, done: Done) -> None:
        """Let one more wait."""
        self.waiting.append((purchase, done))
        self.items += len(purchase.items)

    def may_send(self) -> bool:
        """Whether who waits need not wait for a call that is under way."""
        return self.in_flight < (MAX_SMALL if self.items < SMALL else MAX_IN_FLIGHT)

    def take(self) -> list[Waiting]:
        """Take the next batch, in order of arrival: at least one purchase, at most MAX_ITEMS items."""
        if self.items <= MAX_ITEMS:
            return self.take_all()
        batch, room = [], MAX_ITEMS
        while (size := len(self.waiting[0][0].items)) <= room:
            batch.append(self.waiting.popleft())
            room -= size
        self.items -= MAX_ITEMS - room
        return batch

    def take_all(self) -> list[Waiting]:
        """Take everybody who waits."""
        waiting = list(self.waiting)
        self.waiting.clear()
        self.items = 0
        return waiting


class Batcher:
    """Batches per sale in front of `Gate.admit`; at most `max_queue` purchases wait in all."""

    def __init__(self, gate: Admits, *, max_queue: int) -> None:
        self._gate = gate
        self._max_queue = max_queue
        self._queued = 0
        self._lanes: dict[str, Lane] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self.touched: set[str] = set()
        """Sales that got events since the owner last cleared it."""
        self.deadlines: dict[str, int] = {}
        """Sale → the first deadline (ms) of holds that it got since the owner last cleared it."""

    def submit(self, purchase: Purchase, done: Done) -> None:
        """Let a purchase wait for the next call; raises Overloaded, and then `done` is not called.

        A caller that goes away leaves its purchase to be decided.
        """
        if self._queued >= self._max_queue:
            raise Overloaded(f"{self._queued} purchases are waiting in this front door")
        lane = self._lanes.get(purchase.sale)
        if lane is None:
            lane = self._lanes[purchase.sale] = Lane()
        lane.add(purchase, done)
        self._queued += 1
        if lane.may_send():
            self._start(purchase.sale, lane)

    def _start(self, sale: str, lane: Lane) -> None:
        lane.in_flight += 1
        call = asyncio.create_task(self._call(sale, lane))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _call(self, sale: str, lane: Lane) -> None:
        """Send who waits by now, let those who came meanwhile follow, then answer."""
        if not lane.waiting:  # a call that started a moment before has taken them all
            self._end(sale, lane)
            return
        batch = lane.take()
        self._queued -= len(batch)
        answers: Sequence[Decision | Exception]
        try:
            metrics.BATCH_SIZE.observe(len(batch))
            metrics.QUEUED.set(self._queued)
            answers = decisions = await self._gate.admit(sale, [purchase for purchase, _ in batch])
            self._note(sale, decisions)
        except Exception as error:  # whatever it was, every caller must hear of it
            if isinstance(error, GateUnavailable):
                batch += self._give_up(lane)
            answers = [error] * len(batch)
        except asyncio.CancelledError:  # of something that was waited for: nobody cancels these calls
            answers = [GateUnavailable("the call was cancelled: the outcome is unknown")] * len(batch)
        self._end(sale, lane)
        await _answer(batch, answers)

    def _end(self, sale: str, lane: Lane) -> None:
        lane.in_flight -= 1
        if lane.waiting and lane.may_send():
            self._start(sale, lane)
        elif not lane.in_flight:
            del self._lanes[sale]

    def _note(self, sale: str, decisions: list[Decision]) -> None:
        for decision in decisions:
            if decision.outcome is Outcome.ADMITTED:
                self.touched.add(sale)
                if decision.reservation:  # its deadline is that of the whole batch
                    deadline = decision.reservation.expires_ms
                    self.deadlines[sale] = min(deadline, self.deadlines.get(sale, deadline))
                return

    def _give_up(self, lane: Lane) -> list[Waiting]:
        """Take whoever waits: behind a Redis that hangs, each would wait for one more timeout than the one before."""
        waiting = lane.take_all()
        self._queued -= len(waiting)
        metrics.QUEUED.set(self._queued)
        return waiting

    async def drain(self) -> None:
        """Wait until every call in flight has answered."""
        while self._calls:
            await asyncio.wait(self._calls)


async def _answer(batch: Sequence[Waiting], answers: Sequence[Decision | Exception]) -> None:
    for number, ((_, done), answer) in enumerate(zip(batch, answers, strict=True), 1):
        try:
            done(answer)
        except Exception:
            _log.exception("an answer could not be given")
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)
