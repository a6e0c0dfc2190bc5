"""Natural batching: whatever arrives while calls are in flight goes out together."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from gatekeeper.batcher import MAX_IN_FLIGHT, MAX_ITEMS, MAX_SMALL, SMALL, Batcher
from gatekeeper.errors import GateUnavailable, Overloaded
from gatekeeper.model import Decision, Purchase
from gatekeeper.outcomes import Outcome


class SlowGate:
    """A gate that answers when told to."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.open = asyncio.Event()
        self.in_flight = self.most_in_flight = 0
        self.error: BaseException | None = None

    async def admit(self, sale: str, purchases: Sequence[Purchase]) -> list[Decision]:
        self.calls.append([purchase.id for purchase in purchases])
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await self.open.wait()
        self.in_flight -= 1
        if self.error:
            raise self.error
        return [Decision(Outcome.ADMITTED) for _ in purchases]


def purchases(count: int, *, sale: str = "s", lines: int = 1) -> list[Purchase]:
    return [Purchase.of(sale, "bob", f"k{i}", [(f"S{n}", 1) for n in range(lines)]) for i in range(count)]


def told(story: Callable[[SlowGate], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        await story(SlowGate())

    asyncio.run(main())


async def admit(batcher: Batcher, purchase: Purchase) -> Decision:
    """Wait for the decision; raises the error that came instead of it."""
    future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()

    def done(decision: Decision | Exception) -> None:
        if future.done():
            return
        if isinstance(decision, Exception):
            future.set_exception(decision)
        else:
            future.set_result(decision)

    batcher.submit(purchase, done)
    return await future


async def sent(batcher: Batcher, wanted: list[Purchase]) -> list["asyncio.Task[Decision]"]:
    tasks = [asyncio.create_task(admit(batcher, purchase)) for purchase in wanted]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


def test_what_arrives_while_calls_are_in_flight_goes_out_together_in_order() -> None:
    async def story(gate: SlowGate) -> None:
        batcher = Batcher(gate, max_queue=100)
        wanted = purchases(10)
        tasks = await sent(batcher, wanted[:3])
        tasks += await sent(batcher, wanted[3:])
        gate.open.set()
        assert {decision.outcome for decision in await asyncio.gather(*tasks)} == {Outcome.ADMITTED}
        assert [id for call in gate.calls for id in call] == [purchase.id for purchase in wanted]
        assert gate.calls[-1] == [purchase.id for purchase in wanted[3:]]
        assert all(gate.calls)  # none goes out with nobody in it
        assert batcher.touched == {"s"}

    told(story)


def test_a_call_is_bounded_by_items_not_by_purchases() -> None:
    async def story(gate: SlowGate) -> None:
        batcher = Batcher(gate, max_queue=1000)
        tasks = await sent(batcher, purchases(100, lines=20))
        gate.open.set()
        await asyncio.gather(*tasks)
        assert max(len(call) for call in gate.calls) == MAX_ITEMS // 20
        assert gate.most_in_flight == MAX_IN_FLIGHT

    told(story)


def test_few_small_calls_and_more_large_ones_are_under_way_at_once() -> None:
    async def story(gate: SlowGate) -> None:
        batcher = Batcher(gate, max_queue=1000)
        tasks = []
        for _ in range(2 * MAX_SMALL):
            tasks += await sent(batcher, purchases(1))
        assert gate.in_flight == MAX_SMALL
        for _ in range(2 * MAX_IN_FLIGHT):
            tasks += await sent(batcher, purchases(SMALL))
        assert gate.in_flight == MAX_IN_FLIGHT
        gate.open.set()
        await asyncio.gather(*tasks)
        assert gate.most_in_flight == MAX_IN_FLIGHT

    told(story)


def test_sales_do_not_wait_for_one_another() -> None:
    async def story(gate: SlowGate) -> None:
        batcher = Batcher(gate, max_queue=100)
        tasks = await sent(batcher, purchases(5, sale="a") + purchases(5, sale="b"))
        assert gate.in_flight >= 2
        gate.open.set()
        await asyncio.gather(*tasks)
        assert batcher.touched == {"a", "b"}

    told(story)


def test_a_failed_call_answers_each_of_its_callers_and_the_next_one_works() -> None:
    async def story(gate: SlowGate) -> None:
        batcher = Batcher(gate, max_queue=100)
        gate.error = GateUnavailable("gone")
        gate.open.set()
        failed = await asyncio.gather(*(admit(batcher, p) for p in purchases(5)), return_exceptions=True)
        assert [type(error) for error in failed] == [GateUnavailable] * 5
        gate.error = None
        assert (await admit(batcher, purchases(1)[0])).outcome is Outcome.ADMITTED
        assert batcher.touched == {"s"}

    told(story)


def test_callers_hear_of_a_call_that_was_cancelled_and_the_next_one_works() -> None:
    async def story(gate: SlowGate) -> None:
        batcher = Batcher(gate, max_queue=100)
        gate.error = asyncio.CancelledError()
        gate.open.set()
        for _ in range(2 * MAX_IN_FLIGHT):
            failed = await asyncio.gather(*(admit(batcher, p) for p in purchases(5)), return_exceptions=True)
            assert [type(error) for error in failed] == [GateUnavailable] * 5
        gate.error = None
        assert (await admit(batcher, purchases(1)[0])).outcome is Outcome.ADMITTED

    told(story)


def test_who_waits_behind_a_redis_that_hangs_is_answered_with_the_first_call_that_is_lost() -> None:
    async def story(gate: SlowGate) -> None:
        batcher = Batcher(gate, max_queue=100)
        gate.error = GateUnavailable("no answer")
        tasks = [task for _ in range(MAX_SMALL) for task in await sent(batcher, purchases(1))]
        tasks += await sent(batcher, purchases(20))
        gate.open.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [GateUnavailable] * len(tasks)
        assert [len(call) for call in gate.calls] == [1] * MAX_SMALL  # the twenty were never sent
        gate.error = None
        assert (await admit(batcher, purchases(1)[0])).outcome is Outcome.ADMITTED

    told(story)


def test_a_caller_that_goes_away_harms_nobody() -> None:
    async def story(gate: SlowGate) -> None:
        batcher = Batcher(gate, max_queue=100)
        tasks = await sent(batcher, purchases(6))
        tasks[0].cancel()
        tasks[4].cancel()
        gate.open.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(one, Decision) for one in done] == [False, True, True, True, False, True]

    told(story)


def test_past_the_queues_bound_a_purchase_is_refused_at_once() -> None:
    async def story(gate: SlowGate) -> None:
        batcher = Batcher(gate, max_queue=3)
        tasks = [task for _ in range(MAX_SMALL) for task in await sent(batcher, purchases(1))]
        tasks += await sent(batcher, purchases(3))  # waiting
        with pytest.raises(Overloaded):
            await admit(batcher, purchases(1)[0])
        gate.open.set()
        await asyncio.gather(*tasks)
        assert (await admit(batcher, purchases(1)[0])).outcome is Outcome.ADMITTED

    told(story)


def test_draining_waits_for_every_call_in_flight() -> None:
    async def story(gate: SlowGate) -> None:
        batcher = Batcher(gate, max_queue=100)
        tasks = await sent(batcher, purchases(5))
        asyncio.get_running_loop().call_later(0.01, gate.open.set)
        await batcher.drain()
        await asyncio.sleep(0)
        assert all(task.done() for task in tasks)

    told(story)
