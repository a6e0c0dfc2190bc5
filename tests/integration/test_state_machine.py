"""A sale's whole life, in any order, on real engines beside the plain model: every verb, time, and dying workers.

After every step Redis is what the model says, and after every drain the ledger is, too: each counter, each
reservation, each payment, each buyer. The invariants of DESIGN.md are checked at each step.
"""

import asyncio
import os
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gatekeeper import keys
from gatekeeper.errors import GateError
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection, connect, cursors
from gatekeeper.ledger.tally import Tally
from gatekeeper.merchant import stock
from gatekeeper.merchant.stock import Wanted
from gatekeeper.model import Purchase, Reservation
from gatekeeper.outcomes import Outcome as O
from tests.integration.model import SKUS, Model
from tests.integration.world import KEEP, OVERDUE, SALE, World
from workers import drain as draining
from workers.controller import prove
from workers.drain import Stop
from workers.expire import sweep
from workers.reconcile import reconcile
from workers.repair import repair

EXAMPLES = int(os.environ.get("GATEKEEPER_EXAMPLES", "200"))
STEPS = 50
TABLES = (
    "sales, cursors, inventory, grants, reservations, reservation_items, movements, quarantine, checkpoints, audit, "
    "payments, schedules"
)

carts = st.lists(st.tuples(st.sampled_from(SKUS), st.integers(1, 3)), min_size=1, max_size=3)
wishes = st.tuples(st.sampled_from(["bob", "eve", "mia"]), st.integers(0, 4), carts)
payments = st.sampled_from(["p1", "p2", "p3"])
picks = st.integers(0, 1000)


class Dead(BaseException):
    """A worker died here."""


def die(*_: Any, **__: Any) -> None:
    raise Dead


class Sales(RuleBasedStateMachine):
    """Hypothesis drives the sale and the model side by side."""

    redis_url = database_url = ""

    @initialize(
        limit=st.sampled_from([0, 4, 9]),
        units=st.integers(0, 12),
        state=st.sampled_from(["open", "open", "open", "draft"]),
    )
    def create(self, limit: int, units: int, state: str) -> None:
        self.runner = asyncio.Runner()
        self.w = World(self.redis_url, self.database_url)
        self.model, self.payments_made = Model(limit), set[tuple[str, str]]()
        self.w.ledger.execute(f"TRUNCATE {TABLES}")

        async def open_it() -> None:
            await self.w.gate.redis.flushdb()
            await self.w.open(units=units, per_buyer=limit, state=state)
            wanted = [Wanted("A", units), Wanted("B", 6), Wanted("U", 0, tracked=False)]
            await stock.state(self.w.gate, self.w.ledger, SALE, lambda _: wanted, actor="test")

        self.run(open_it())
        self.model.granted |= {"A": units, "B": 6}
        self.model.state = state

    def run(self, story: Any) -> Any:
        return self.runner.run(story)

    # ── merchants ────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(action=st.sampled_from(["open", "open", "open", "pause", "resume", "close"]), really=st.integers(0, 9))
    def move(self, action: str, really: int) -> None:
        if action == "close" and really < 8:
            return  # or most lives would be short
        done = self.run(self.w.gate.control(SALE, action, actor="test"))
        assert done.changed == self.model.move(action)

    @precondition(lambda self: self.model.state != "closed")
    @rule(sku=st.sampled_from(["A", "B"]), capacity=st.integers(0, 12))
    def state_stock(self, sku: str, capacity: int) -> None:
        stated = self.run(
            stock.state(self.w.gate, self.w.ledger, SALE, lambda _: [Wanted(sku, capacity)], actor="test")
        )
        assert (not stated.refused) == self.model.grant(sku, capacity)

    @rule(sku=st.sampled_from(SKUS), paused=st.booleans())
    def pause_sku(self, sku: str, paused: bool) -> None:
        self.run(self.w.gate.control(SALE, "pause_sku" if paused else "resume_sku", actor="test", sku=sku))
        (self.model.paused.add if paused else self.model.paused.discard)(sku)

    # ── buyers and shops ─────────────────────────────────────────────────────────────────────────────────────────

    @rule(batch=st.lists(wishes, min_size=1, max_size=5))
    def admit(self, batch: list[tuple[str, int, list[tuple[str, int]]]]) -> None:
        purchases = [Purchase.of(SALE, buyer, f"k{key}", cart) for buyer, key, cart in batch]
        expected = [self.model.admit(p.id, wish[0], wish[2]) for p, wish in zip(purchases, batch, strict=True)]
        decisions = self.run(self.w.gate.admit(SALE, purchases))
        assert [decision.outcome for decision in decisions] == expected

    def pick(self, number: int) -> str:
        return sorted(self.model.lives)[number % len(self.model.lives)]

    reserved = precondition(lambda self: self.model.lives)

    @reserved
    @rule(number=picks, payment=payments)
    def confirm(self, number: int, payment: str) -> None:
        id = self.pick(number)
        turn = self.run(self.w.gate.confirm(SALE, id, payment, actor="shop"))
        assert (turn.outcome, turn.changed) == self.model.confirm(id, payment)
        self.payments_made.add((id, payment))

    @reserved
    @rule(
        number=picks,
        reason=st.sampled_from(["cancelled", "refund", "rejected"]),
        buyer=st.sampled_from(["", "", "bob", "eve"]),
    )
    def release(self, number: int, reason: str, buyer: str) -> None:
        id = self.pick(number)
        turn = self.run(self.w.gate.release(SALE, id, reason, actor="shop", buyer=buyer))
        assert (turn.outcome, turn.changed) == self.model.release(id, reason, buyer)

    @reserved
    @rule(number=picks, refund=st.sampled_from(["r1", "r2"]), payment=st.sampled_from(["", "", "p1", "p2"]))
    def settle(self, number: int, refund: str, payment: str) -> None:
        id = self.pick(number)
        turn = self.run(self.w.gate.settle(SALE, id, refund, actor="shop", payment=payment))
        assert (turn.outcome, turn.changed) == self.model.settle(id, refund, payment)

    @precondition(lambda self: self.due())
    @rule(number=picks, refund=st.sampled_from(["r1", "r2", "r3"]))
    def settle_what_is_due(self, number: int, refund: str) -> None:
        id, payment = self.due()[number % len(self.due())]
        turn = self.run(self.w.gate.settle(SALE, id, refund, actor="shop", payment=payment))
        assert (turn.outcome, turn.changed) == self.model.settle(id, refund, payment) == (O.SETTLED, True)

    def due(self) -> list[tuple[str, str]]:
        lives = sorted(self.model.lives.items())
        return [(id, p) for id, life in lives for p, r in sorted(life.refunds.items()) if r[0] == "refund_due"]

    @precondition(lambda self: self.sold())
    @rule(number=picks, reason=st.sampled_from(["refund", "rejected"]))
    def undo_a_sale(self, number: int, reason: str) -> None:
        id = self.sold()[number % len(self.sold())]
        turn = self.run(self.w.gate.release(SALE, id, reason, actor="shop"))
        assert (turn.outcome, turn.changed) == self.model.release(id, reason) == (O.RELEASED, True)

    def sold(self) -> list[str]:
        return sorted(id for id, life in self.model.lives.items() if life.state == "sold")

    # ── time ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @rule(holds=st.integers(1, 3))
    def a_deadline_passes(self, holds: int) -> None:
        nouns = [keys.due(SALE), keys.reservations(SALE)]
        redis = self.w.gate.redis
        for id in self.run(redis.zrange(keys.due(SALE), 0, holds - 1)):
            self.model.lives[id.decode()].overdue = True
        self.run(redis.eval(OVERDUE, 2, *nouns, holds - 1))

    @rule(holds=st.integers(1, 3), calls=st.integers(1, 2))
    def sweep(self, holds: int, calls: int) -> None:
        """A sweep that may die after any call: each is whole."""
        overdue = {id for id, life in self.model.lives.items() if life.state == "held" and life.overdue}
        expired = self.run(sweep(self.w.gate, SALE, calls=calls, holds=holds))
        assert expired == min(len(overdue), calls * holds)
        records = self.run(self.w.gate.redis.hgetall(keys.reservations(SALE)))
        for id in overdue:
            if records[id.encode()].startswith(b"expired"):
                self.model.expire(id)

    # ── workers, and their deaths ────────────────────────────────────────────────────────────────────────────────

    @rule()
    def drain(self) -> None:
        assert self.run(self.w.drain()).stop is Stop.EMPTY
        self.ledger_is_what_the_model_says()

    @rule(point=st.sampled_from(["apply", "move", "commit"]), batch=st.sampled_from([1, 3, 2000]))
    def a_drain_dies(self, point: str, batch: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(draining, "BATCH", batch)
            if point == "apply":
                patch.setattr(draining, "apply", die)
            elif point == "move":
                whole = cursors.move
                patch.setattr(cursors, "move", lambda *args: (whole(*args), die()))
            else:
                patch.setattr(type(self.w.gate), "applied", die)
            try:
                self.run(self.w.drain())
            except Dead:
                pass

    @rule()
    def reconcile(self) -> None:
        report = self.run(reconcile(self.w.gate, self.w.ledger, SALE, keep=KEEP))
        assert report.drift == [] and report.skus_compared == len(SKUS)
        self.ledger_is_what_the_model_says()

    @rule()
    def fence_and_prove(self) -> None:
        async def story() -> str:
            await self.w.gate.control(SALE, "fence", actor="test", reason="a test")
            return await prove(self.w.gate, self.w.ledger, SALE, await self.w.gate.replication(), keep=KEEP)

        assert self.run(story()) == ""

    @rule(lose=st.booleans())
    def repair(self, lose: bool) -> None:
        """Also after Redis lost everything, if the ledger had it all. (Deadlines then are those that were given.)"""
        if lose:
            self.drain()
            self.run(self.w.gate.redis.flushdb())
        done = self.run(repair(self.w.gate, self.w.ledger, SALE, keep=KEEP, backlog_limit=10**6, actor="test"))
        assert done.reservations == len(self.model.lives)
        for life in self.model.lives.values():
            life.overdue = life.overdue and life.state != "held"

    @rule()
    def scripts_are_lost_and_loaded_again(self) -> None:
        self.run(self.w.gate.redis.script_flush())
        self.run(self.w.gate.load_scripts())

    # ── what must hold ───────────────────────────────────────────────────────────────────────────────────────────

    @invariant()
    def redis_is_what_the_model_says(self) -> None:
        redis, model = self.w.gate.redis, self.model
        pipe = redis.pipeline(transaction=False)
        for noun in (keys.reservations, keys.buyers, keys.sale):
            pipe.hgetall(noun(SALE))
        pipe.zrange(keys.due(SALE), 0, -1)
        records, buyers, sale, due = self.run(pipe.execute())
        counters = self.run(self.w.gate.counters(SALE))
        assert counters == {sku: model.counters(sku) for sku in SKUS}
        for c in counters.values():
            assert min(c.available, c.held, c.sold, c.granted) >= 0
            assert not c.tracked or c.available + c.held + c.sold == c.granted
        found = {id.decode(): Reservation.from_record(SALE, id.decode(), r.decode()) for id, r in records.items()}
        assert found.keys() == model.lives.keys()
        for id, life in model.lives.items():
            r = found[id]
            assert (r.state, r.late, r.payment) == (life.state, life.late, life.payment)
            assert {refund.payment: (refund.state, refund.refund) for refund in r.refunds} == life.refunds
        assert {buyer.decode(): int(units) for buyer, units in buyers.items()} == model.buyers()
        assert int(sale[b"buyer_units"]) == sum(model.buyers().values())
        assert {id.decode() for id in due} == {id for id, life in model.lives.items() if life.state == "held"}
        assert (sale[b"state"].decode(), sale[b"fence"]) == (model.state, b"")

    @invariant()
    def every_payment_is_sold_or_on_its_way_back(self) -> None:
        for id, payment in self.payments_made:
            life = self.model.lives[id]
            assert (life.state == "sold" and life.payment == payment) != (payment in life.refunds)

    def ledger_is_what_the_model_says(self) -> None:
        """Call after a drain to the end."""
        w, model = self.w, self.model
        inventory = w.ledger.execute("SELECT sku, capacity, granted, held, sold FROM inventory").fetchall()
        assert {row[0]: row[1:] for row in inventory} == {
            sku: (c.granted, c.granted, c.held, c.sold) for sku in SKUS for c in [model.counters(sku)]
        }
        rows = w.ledger.execute("SELECT id, buyer, fingerprint, state, late, payment FROM reservations")
        assert {row[0]: row[1:] for row in rows} == {
            id: (
                life.buyer,
                " ".join(f"{s} {n}" for s, n in sorted(life.cart.items())),
                life.state,
                life.late,
                life.payment,
            )
            for id, life in model.lives.items()
        }
        expected = {(id, p, *r) for id, life in model.lives.items() for p, r in life.refunds.items()}
        expected |= {(id, life.payment, "sold", "") for id, life in model.lives.items() if life.payment}
        assert set(w.ledger.execute("SELECT id, payment, state, refund FROM payments")) == expected
        sums = w.ledger.execute("SELECT sku, sum(granted), sum(held), sum(sold) FROM movements GROUP BY sku")
        assert {row[0]: row[1:] for row in sums} == {row[0]: row[2:] for row in inventory}
        units = sum(c.held + c.sold for c in map(model.counters, SKUS))
        assert w.one("SELECT units, (SELECT count(*) FROM quarantine) FROM cursors") == (units, 0)

    def teardown(self) -> None:
        try:
            assert self.run(self.w.drain()).stop is Stop.EMPTY
            self.ledger_is_what_the_model_says()
        finally:
            self.run(self.w.close())
            self.runner.close()


def live(redis_url: str, database_url: str, examples: int, **more: Any) -> None:
    machine = type("Sales", (Sales,), {"redis_url": redis_url, "database_url": database_url})
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    how = settings(stateful_step_count=STEPS, deadline=None, suppress_health_check=checks, database=None, **more)
    run_state_machine_as_test(machine, settings=settings(how, max_examples=examples))


@pytest.mark.timeout(300 + 2 * EXAMPLES)
def test_any_life_of_a_sale_keeps_every_invariant(redis_url: str, database_url: str) -> None:
    live(redis_url, database_url, EXAMPLES)


def moves_the_cursor_before_it_applies(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = draining.apply

    def apply(connection: Connection, sale: str, batch: Any) -> Any:
        with connect(connection.info.dsn) as other:  # a transaction of its own
            other.execute("UPDATE cursors SET epoch = %s, n = %s", [batch[-1][0].epoch, batch[-1][0].n])
        return whole(connection, sale, batch)

    monkeypatch.setattr(cursors, "move", lambda *_: None)
    monkeypatch.setattr(cursors, "try_lock", cursors.read)
    monkeypatch.setattr(draining, "apply", apply)


def gives_back_one_sku_of_a_cart(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an `UPDATE … FROM` with several joined rows does."""
    whole = Tally._end

    def end(self: Tally, *args: Any) -> Any:
        kept = self._find(args[1].id)
        kept.items, items = kept.items[:1], kept.items
        try:
            return whole(self, *args)
        finally:
            kept.items = items

    monkeypatch.setattr(Tally, "_end", end)


def forgets_payments_that_became_no_sale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tally, "_settle", lambda *_: None)


def trims_what_is_not_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Gate.admit

    async def admit(self: Gate, sale: str, purchases: Any) -> Any:
        decisions = await whole(self, sale, purchases)
        await self.redis.xtrim(keys.outbox(sale), maxlen=2, approximate=False)
        return decisions

    monkeypatch.setattr(Gate, "admit", admit)


BUGS = [
    moves_the_cursor_before_it_applies,
    gives_back_one_sku_of_a_cart,
    forgets_payments_that_became_no_sale,
    trims_what_is_not_applied,
]


@pytest.mark.parametrize("bug", BUGS)
def test_the_machine_catches_what_a_careless_worker_would_do(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch, bug: Any
) -> None:
    bug(monkeypatch)
    with pytest.raises((AssertionError, BaseExceptionGroup, GateError, psycopg.Error)):
        live(redis_url, database_url, 100, phases=[Phase.generate], report_multiple_bugs=False)
