"""A sale's whole life, in any order, on the real scripts, beside a plain model in Python.

After every step the invariants hold: available + held + sold = granted, nothing negative, event ids dense, and folding
the events gives the very counters that Redis has.
"""

import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gatekeeper import events
from gatekeeper.model import Counters, Position
from gatekeeper.outcomes import Outcome as O
from gatekeeper.replies import Granted
from tests.lua.sale import SALE, Sale, purchase

EXAMPLES = int(os.environ.get("GATEKEEPER_EXAMPLES", "60"))
SKUS = ("A", "B", "U")
carts = st.lists(st.tuples(st.sampled_from(SKUS), st.integers(1, 3)), min_size=1, max_size=3)
wishes = st.tuples(st.sampled_from(["bob", "eve"]), st.integers(0, 8), carts)


class Model:
    """What a sale should do, in the plainest Python."""

    def __init__(self, limit: int) -> None:
        self.state, self.limit, self.granted = "draft", limit, 0
        self.stock = {sku: Counters(0, 0, 0, 0, tracked=sku != "U") for sku in SKUS}
        self.paused: set[str] = set()
        self.bought: dict[tuple[str, int], Counter[str]] = {}

    def admit(self, buyer: str, key: int, cart: list[tuple[str, int]]) -> O:
        wanted: Counter[str] = Counter()
        for sku, units in cart:
            wanted[sku] += units
        if (buyer, key) in self.bought:
            return O.REPLAYED if self.bought[buyer, key] == wanted else O.IDEMPOTENCY_MISMATCH
        if self.state != "open":
            return {"draft": O.SALE_NOT_OPEN, "paused": O.SALE_PAUSED, "closed": O.SALE_CLOSED}[self.state]
        if self.paused & wanted.keys():
            return O.SKU_PAUSED
        if any(self.stock[sku].tracked and self.stock[sku].available < units for sku, units in wanted.items()):
            return O.SOLD_OUT
        had = sum(cart.total() for (name, _), cart in self.bought.items() if name == buyer)
        if self.limit and had + wanted.total() > self.limit:
            return O.BUYER_LIMIT
        self.bought[buyer, key] = wanted
        for sku, units in wanted.items():
            self.take(sku, units)
        return O.ADMITTED

    def take(self, sku: str, units: int) -> None:
        s = self.stock[sku]
        self.stock[sku] = Counters(s.available - units * s.tracked, s.held + units, 0, s.granted, s.tracked)

    def grant(self, sku: str, delta: int) -> O:
        s = self.stock[sku]
        if self.state == "closed":
            return O.SALE_CLOSED
        if s.available + delta < 0:
            return O.NOT_AVAILABLE
        self.granted += 1
        self.stock[sku] = Counters(s.available + delta, s.held, 0, s.granted + delta, s.tracked)
        return O.OK


class Life(RuleBasedStateMachine):
    """Hypothesis drives the sale and the model side by side."""

    url = ""

    @initialize(limit=st.sampled_from([0, 4]))
    def create(self, limit: int) -> None:
        self.sale = Sale(self.url)
        self.sale.plain.flushdb()
        self.model, self.epoch = Model(limit), 1
        self.sale.create(state="draft", stock="A:0 B:0 U:-", per_buyer=limit)
        self.model.granted = 1

    @rule(action=st.sampled_from(["open", "pause", "resume", "open", "close"]))
    def move(self, action: str) -> None:
        moves = {"open": ["draft"], "pause": ["open"], "resume": ["paused"], "close": ["open", "paused"]}
        targets = {"open": "open", "pause": "paused", "resume": "open", "close": "closed"}
        changed = self.model.state in moves[action]
        if changed:
            self.model.state = targets[action]
        assert self.sale.control(action).changed == changed

    @rule(sku=st.sampled_from(["A", "B"]), delta=st.integers(-3, 6))
    def grant(self, sku: str, delta: int) -> None:
        expected = self.model.grant(sku, delta)
        number = self.model.granted + (expected is not O.OK)
        reply: Granted = self.sale.run(self.sale.gate.grant(SALE, number, [(sku, delta, True)], actor="test"))
        assert reply.outcome is expected

    @rule()
    def grant_again(self) -> None:
        """A repeated grant is recognised by its number."""
        lines = [("A", 50, True)]
        reply = self.sale.run(self.sale.gate.grant(SALE, self.model.granted, lines, actor="test"))
        assert reply.outcome is O.ALREADY_GRANTED

    @rule(batch=st.lists(wishes, min_size=1, max_size=6))
    def admit(self, batch: list[tuple[str, int, list[tuple[str, int]]]]) -> None:
        purchases = [
            purchase(" ".join(f"{sku}:{units}" for sku, units in cart), buyer=buyer, key=f"k{key}")
            for buyer, key, cart in batch
        ]
        expected = [self.model.admit(*wish) for wish in batch]
        assert [decision.outcome for decision in self.sale.admit(*purchases)] == expected

    @rule(sku=st.sampled_from(SKUS), paused=st.booleans())
    def pause_sku(self, sku: str, paused: bool) -> None:
        self.sale.control("pause_sku" if paused else "resume_sku", sku=sku)
        (self.model.paused.add if paused else self.model.paused.discard)(sku)

    @rule()
    def checkpoint(self) -> None:
        self.sale.run(self.sale.gate.checkpoint(SALE, SKUS))

    @rule()
    def scripts_are_lost_and_loaded_again(self) -> None:
        self.sale.plain.script_flush()
        self.sale.run(self.sale.gate.load_scripts())

    @precondition(lambda self: self.epoch < 4)
    @rule()
    def fence_and_prove(self) -> None:
        self.sale.control("fence", reason="a test")
        last = self.sale.run(self.sale.gate.last_position(SALE))
        assert self.sale.control("prove", last_id=str(last)).outcome is O.OK
        self.epoch += 1

    @invariant()
    def redis_is_what_the_model_says(self) -> None:
        counters = self.sale.run(self.sale.gate.counters(SALE))
        expected = {
            sku: Counters(s.available, s.held, s.sold, s.granted, s.tracked, sku in self.model.paused)
            for sku, s in self.model.stock.items()
        }
        assert counters == expected
        for c in counters.values():
            assert min(c.available, c.held, c.sold, c.granted) >= 0
            assert not c.tracked or c.available + c.held + c.sold == c.granted

    @invariant()
    def events_are_dense_and_fold_to_the_same_counters(self) -> None:
        folded = {sku: Counter[str]() for sku in SKUS}
        expected = Position(1, 0)
        for id, fields in self.sale.plain.xrange(f"gk1:{{{SALE}}}:outbox"):
            position, event = Position.parse(id), events.parse(fields["event"].encode())
            if isinstance(event, events.Epoch):
                assert event.predecessor.next == expected
                expected = Position(expected.epoch + 1, 0)
            assert position == expected
            expected = position.next
            if isinstance(event, events.Admit):
                for sku, units in event.items:
                    folded[sku]["held"] += units
            elif isinstance(event, events.Grant):
                for line in event.lines:
                    folded[line.sku]["granted"] += line.delta
            elif isinstance(event, events.Checkpoint):
                for at in event.lines:
                    assert (at.held, at.granted) == (folded[at.sku]["held"], folded[at.sku]["granted"])
        stock = self.model.stock
        assert all((folded[s]["held"], folded[s]["granted"]) == (stock[s].held, stock[s].granted) for s in SKUS)

    def teardown(self) -> None:
        self.sale.close()


@pytest.mark.timeout(60 + EXAMPLES)
def test_any_life_of_a_sale_keeps_every_invariant(redis_url: str) -> None:
    machine = type("Life", (Life,), {"url": redis_url})
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=30, deadline=None, suppress_health_check=checks, database=None
        ),
    )
