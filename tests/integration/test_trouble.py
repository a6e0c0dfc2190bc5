"""Trouble within trouble: repairs beside a controller, fences with a quarantine, damage of one sale beside others."""

import asyncio
from typing import Any

import pytest

from gatekeeper import keys
from gatekeeper.errors import GateError, GatekeeperError
from gatekeeper.gate import Gate
from gatekeeper.ledger import checkpoints, quarantine, sales
from gatekeeper.mending import Mending
from gatekeeper.merchant import sales as merchant
from gatekeeper.merchant import stock
from gatekeeper.merchant.stock import Wanted
from gatekeeper.model import Counters, Position
from gatekeeper.outcomes import Outcome as O
from tests.integration.test_care import assert_equal, everything, mend, poison
from tests.integration.test_endings import id_of
from tests.integration.world import KEEP, SALE, World, purchase
from workers import controller as controlling
from workers import repair as repairing
from workers.checkpoints import step
from workers.controller import Controller, prove
from workers.drain import BUDGET, Stop, drain
from workers.quarantine import discard, retry
from workers.queue import JOB_SECONDS, JOB_TIMEOUT, _drain
from workers.reconcile import reconcile
from workers.repair import NotRepairable

LOST = "0" * 40
"""No Redis's replication id: whatever was proven on it is unproven here."""


async def restart(gate: Gate, *names: str) -> None:
    """As after a restart of Redis: nothing is proven on this one."""
    for sale in names or (SALE,):
        await gate.redis.hset(keys.sale(sale), "replid", LOST)


async def opened(w: World, *, per_buyer: int = 0) -> None:
    await w.open(per_buyer=per_buyer)
    await w.gate.publish_catalogue([SALE])


async def wrong_type(gate: Gate, key: str) -> None:
    await gate.redis.delete(key)
    await gate.redis.set(key, "x")


# ── a repair beside the controller ───────────────────────────────────────────────────────────────────────────────────


def test_the_controller_leaves_the_fence_of_a_running_repair_alone(world, monkeypatch) -> None:
    async def story(w: World) -> None:
        await opened(w)
        await w.buy(0, 5)
        controller, fences = Controller(w.connections()), []
        wipe, whole = Mending.wipe, drain

        async def meanwhile(*args: Any, **kwargs: Any) -> Any:
            done = await whole(*args, **kwargs)
            await controller.round()
            return done

        async def look(mending: Mending, sale: str) -> None:
            await wipe(mending, sale)
            fences.append(await w.gate.redis.hget(keys.sale(SALE), "fence"))
            with pytest.raises(GateError):
                await w.gate.confirm(SALE, id_of(0), "pay-0", actor="shop")

        monkeypatch.setattr(repairing, "drain", meanwhile)
        monkeypatch.setattr(Mending, "wipe", look)
        await mend(w)
        assert fences == [b"under repair by cli:eve"]
        await assert_equal(w)

    world(story)


def test_a_fence_that_somebody_lifted_stops_the_repair(world, monkeypatch) -> None:
    async def story(w: World) -> None:
        await opened(w)
        await w.buy(0, 5)
        whole = drain

        async def meanwhile(*args: Any, **kwargs: Any) -> Any:
            done = await whole(*args, **kwargs)
            await w.gate.redis.hset(keys.sale(SALE), "fence", "")
            return done

        monkeypatch.setattr(repairing, "drain", meanwhile)
        before = (await everything(w.gate))["reservations"]
        with pytest.raises(NotRepairable, match="changed the fence"):
            await mend(w)
        assert (await everything(w.gate))["reservations"] == before

    world(story)


def test_the_controller_does_not_fence_what_was_just_repaired(world, monkeypatch) -> None:
    async def story(w: World) -> None:
        await opened(w)
        await w.buy(0, 5)
        await restart(w.gate)
        whole = drain

        async def meanwhile(*args: Any, **kwargs: Any) -> Any:
            done = await whole(*args, **kwargs)
            await mend(w)
            return done

        monkeypatch.setattr(controlling, "drain", meanwhile)
        assert "meanwhile" in await prove(w.gate, w.ledger, SALE, await w.gate.replication(), keep=KEEP)
        assert await w.buy(5, 1) == 1

    world(story)


# ── fenced, and something in quarantine ──────────────────────────────────────────────────────────────────────────────


async def flushed(w: World) -> None:
    await w.gate.redis.flushall()
    await w.gate.load_scripts()


async def restarted_with_drift(w: World) -> None:
    await w.gate.redis.hset(keys.stock(SALE), "B", "9 1 0 10 1 0")
    await restart(w.gate)


async def fenced_by_hand(w: World) -> None:
    await w.gate.redis.hset(keys.stock(SALE), "B", "9 1 0 10 1 0")
    await w.gate.control(SALE, "fence", actor="test", reason="a test")


@pytest.mark.parametrize("how", [flushed, restarted_with_drift, fenced_by_hand])
def test_out_of_a_fence_with_a_quarantine_there_is_a_way(world, how) -> None:
    async def story(w: World) -> None:
        await poison(w, sold=1)
        await stock.state(w.gate, w.ledger, SALE, lambda _: [Wanted("B", 10)], actor="test")
        await w.drain()
        await how(w)
        await Controller(w.connections()).round()
        with pytest.raises(NotRepairable, match="in quarantine"):
            await mend(w)
        while waiting := quarantine.events(w.ledger, SALE):
            done = await discard(w.gate, w.ledger, SALE, waiting[0][0], "give up", keep=KEEP, actor="cli")
            assert done.needs_repair
        w.ledger.execute("UPDATE inventory SET granted = capacity")
        await mend(w)
        await assert_equal(w)
        r = await w.gate.reservation(SALE, id_of(0))
        assert r and (r.state, [(refund.payment, refund.state) for refund in r.refunds]) == (
            "released", [("pay-0", "refund_due")],
        )  # fmt: skip
        assert w.one("SELECT state FROM payments") == ("refund_due",)

    world(story)


def test_garbage_that_names_no_reservation_of_ours_does_not_keep_a_sale_fenced(world) -> None:
    async def story(w: World) -> None:
        await opened(w)
        await w.buy(0, 2)
        await w.gate.redis.xadd(keys.outbox(SALE), {"event": "expire\n1\n" + "f" * 32 + "\n"}, id="1-*")
        await w.drain()
        await restart(w.gate)
        await Controller(w.connections()).round()
        await w.gate.control(SALE, "resume", actor="test")
        assert await w.buy(5, 1) == 1

    world(story)


async def quarantined_confirm(w: World) -> None:
    """The ledger has bob's hold as expired, for whatever reason, and so cannot take that he paid."""
    await opened(w)
    await w.buy(0, 2)
    await w.drain()
    w.ledger.execute("UPDATE reservations SET state = 'expired' WHERE id = %s", [id_of(0)])
    await w.gate.confirm(SALE, id_of(0), "pay-0", actor="shop")
    await w.drain()


def test_a_quarantined_end_pauses_the_skus_of_its_reservation_and_makes_them_unproven(world) -> None:
    async def story(w: World) -> None:
        await quarantined_confirm(w)
        view = await w.gate.availability(SALE)
        assert not isinstance(view, tuple) and (view.state, view.skus["A"].paused) == ("open", True)
        report = await reconcile(w.gate, w.ledger, SALE, keep=KEEP)
        assert report.unproven == ["A"] and all(entry["unproven"] for entry in report.drift)
        await restart(w.gate)
        await Controller(w.connections()).round()
        await w.gate.control(SALE, "resume_sku", actor="test", sku="A")  # what is in quarantine keeps no sale fenced
        assert await w.buy(5, 1) == 1

    world(story)


def test_what_the_same_batch_quarantined_excuses_its_checkpoint(world) -> None:
    async def story(w: World) -> None:
        await w.open(units=8)
        await w.buy(0, 4)
        await w.drain()
        quarantine.add(w.ledger, SALE, Position(1, 0), f"settle\n{id_of(0)}\n".encode(), "a test")
        await w.gate.release(SALE, id_of(0), "cancelled", actor="shop")
        report = await reconcile(w.gate, w.ledger, SALE, keep=KEEP)
        assert report.unproven == ["A"] and report.drift and all(entry["unproven"] for entry in report.drift)
        view = await w.gate.availability(SALE)  # an eighth of the stock: it does not escalate, for it is explained
        assert not isinstance(view, tuple) and (view.state, view.skus["A"].paused) == ("open", True)

    world(story)


# ── damage of one sale ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", ["what?", None], ids=["malformed", "of the wrong type"])
def test_one_damaged_sale_keeps_the_controller_from_no_other(world, value) -> None:
    async def story(w: World) -> None:
        await opened(w)
        await w.drain()
        await merchant.create(w.gate, w.ledger, "other", merchant.Terms(), backlog_limit=100, actor="test")
        await drain(w.gate, w.ledger, "other", keep=KEEP)
        if value:
            await w.gate.redis.hset(keys.stock(SALE), "A", value)
        else:
            await wrong_type(w.gate, keys.stock(SALE))
        await restart(w.gate, SALE, "other")
        await Controller(w.connections()).round()
        marks = await w.gate.marks([SALE, "other"])
        assert marks["other"] and marks["other"].replid != LOST
        assert marks[SALE] and marks[SALE].replid == LOST

    world(story)


def test_a_damaged_outbox_hinders_no_other_sale_of_its_job(world) -> None:
    async def story(w: World) -> None:
        await opened(w)
        await merchant.create(w.gate, w.ledger, "aaa", merchant.Terms(), backlog_limit=100, actor="test")
        await wrong_type(w.gate, keys.outbox("aaa"))
        await _drain(w.connections(), ["aaa", SALE])
        assert w.inventory() == (100, 100, 0, 0)

    world(story)


@pytest.mark.parametrize("noun", ["stock", "reservations", "buyers", "due", "skus", "sale"])
def test_a_repair_mends_a_key_of_the_wrong_type(world, noun: str) -> None:
    async def story(w: World) -> None:
        await opened(w, per_buyer=2)
        await w.buy(0, 5)
        await w.drain()
        before = await everything(w.gate)
        await wrong_type(w.gate, getattr(keys, noun)(SALE))
        await mend(w)
        assert await everything(w.gate) == before
        await assert_equal(w)

    world(story)


def test_a_sale_lost_before_its_first_drain_is_created_again(world) -> None:
    async def story(w: World) -> None:
        await opened(w)
        await flushed(w)
        await w.gate.publish_catalogue([SALE])
        with pytest.raises(NotRepairable, match="`gatekeeper sale create jackets` again completes it"):
            await mend(w)
        await w.open()
        assert await w.buy(0, 1) == 1

    world(story)


def test_behind_a_gap_the_outbox_is_set_aside_and_kept(world) -> None:
    async def story(w: World) -> None:
        await opened(w)
        await w.buy(0, 2)
        await w.drain()
        await w.buy(2, 1)
        await w.buy(3, 1)
        await w.gate.redis.xdel(keys.outbox(SALE), "1-5")
        assert (await w.drain()).stop is Stop.FENCED
        with pytest.raises(NotRepairable, match="events between them are lost"):
            await mend(w)
        done = await mend(w, set_aside=True)
        assert (done.reservations_before, done.reservations) == (4, 2)
        assert await w.gate.redis.xlen(f"{keys.outbox(SALE)}:until-1-6") == 6
        assert await w.buy(3, 1) == 1  # the shop asks again with the same key
        await assert_equal(w)

    world(story)


def test_a_deadline_without_a_reservation_stays_fenced_instead_of_flapping(world) -> None:
    async def story(w: World) -> None:
        await opened(w)
        await w.buy(0, 2)
        await w.gate.redis.zadd(keys.due(SALE), {"f" * 32: 1})
        controller = Controller(w.connections())
        for _ in range(4):
            with pytest.raises(GateError):
                await w.gate.expire(SALE, 10)
            await controller.round()
        assert (await w.gate.redis.hget(keys.sale(SALE), "epoch")) == b"1"
        assert (await mend(w)).epoch == 2
        assert (await w.gate.expire(SALE, 10)).expired == 0

    world(story)


# ── what a crash leaves ──────────────────────────────────────────────────────────────────────────────────────────────


async def dies(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_admission_goes_on_after_a_drain_that_died_behind_its_commit(world, monkeypatch) -> None:
    async def story(w: World) -> None:
        await opened(w)
        await w.drain()
        await w.gate.redis.hset(keys.sale(SALE), "backlog_limit", 5)
        assert await w.buy(0, 5) == 5
        assert await w.buy(5, 1) == 0
        with monkeypatch.context() as dead:
            dead.setattr(Gate, "applied", dies)
            with pytest.raises(KeyboardInterrupt):
                await w.drain()
        await w.drain()
        assert await w.buy(5, 1) == 1

    world(story)


def test_a_deletion_that_died_halfway_is_completed_by_repeating_it(world, monkeypatch) -> None:
    async def story(w: World) -> None:
        await w.open(state="draft")
        await w.drain()
        with monkeypatch.context() as dead:
            dead.setattr(sales, "delete", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                await merchant.delete(w.gate, w.ledger, SALE, actor="test")
        done = await merchant.delete(w.gate, w.ledger, SALE, actor="test")
        assert done.outcome is O.OK and w.one("SELECT state FROM sales") == ("deleted",)

    world(story)


def test_a_surplus_that_a_repair_mended_stops_nothing_afterwards(world) -> None:
    async def story(w: World) -> None:
        await opened(w)
        await w.drain()
        await w.gate.redis.hset(keys.stock(SALE), "A", "150 0 0 150 1 0")
        await w.gate.checkpoint(SALE, ["A"])
        await mend(w)
        await w.drain()
        view = await w.gate.availability(SALE)
        assert not isinstance(view, tuple) and (view.state, view.skus["A"]) == ("open", Counters(100, 0, 0, 100))

    world(story)


def test_a_grant_whose_event_was_damaged_can_be_granted_again_after_a_repair(world) -> None:
    async def story(w: World) -> None:
        await opened(w)
        await w.drain()
        await stock.state(w.gate, w.ledger, SALE, lambda _: [Wanted("A", 150)], actor="test")
        entries = await w.gate.redis.xrange(keys.outbox(SALE))
        await w.gate.redis.delete(keys.outbox(SALE))
        for id, fields in [*entries[:-1], (entries[-1][0], {"event": b"garbage"})]:
            await w.gate.redis.xadd(keys.outbox(SALE), fields, id=id)
        await w.drain()
        both = [Wanted("A", 150), Wanted("B", 1)]
        await stock.state(w.gate, w.ledger, SALE, lambda _: both, actor="test")
        await w.drain()
        ((position, _),) = quarantine.events(w.ledger, SALE)
        await discard(w.gate, w.ledger, SALE, position, "garbage", keep=KEEP, actor="cli")
        await mend(w)
        assert w.one("SELECT capacity, granted FROM inventory WHERE sku = 'A'") == (100, 100)
        await stock.state(w.gate, w.ledger, SALE, lambda _: both, actor="test")
        await w.drain()
        assert w.one("SELECT capacity, granted FROM inventory WHERE sku = 'A'") == (150, 150)
        await assert_equal(w)

    world(story)


# ── the same, however it came about ──────────────────────────────────────────────────────────────────────────────────


def test_payments_stand_in_the_same_order_and_time_on_both_sides_however_they_were_batched(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.buy(0, 2)
        for number, cut in ((0, False), (1, True)):
            for verb, words in (("confirm", ("P",)), ("confirm", ("Q",)), ("release", ("refund",))):
                await getattr(w.gate, verb)(SALE, id_of(number), *words, actor="shop")
                await asyncio.sleep(0.01)
                if cut:
                    await w.drain()
            await w.drain()
        before = await everything(w.gate)
        await mend(w)
        assert (await everything(w.gate))["reservations"] == before["reservations"]
        rows = w.ledger.execute("SELECT changed_at > created_at FROM payments WHERE payment = 'P'").fetchall()
        assert rows == [(True,), (True,)]

    world(story)


@pytest.mark.parametrize("verb", ["confirm", "release", "settle", "discard"])
def test_an_empty_text_is_refused_and_fences_nothing(world, verb: str) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.buy(0, 1)
        with pytest.raises(GatekeeperError, match="not empty"):
            await getattr(w.gate, verb)(SALE, id_of(0), "", actor="cli:eve")
        assert await w.buy(1, 1) == 1

    world(story)


def test_a_rotation_over_exactly_one_turn_of_skus_ends(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        skus = [f"S{i:04}" for i in range(499)]
        await stock.state(w.gate, w.ledger, SALE, lambda _: [Wanted(sku, 1) for sku in skus], actor="test")
        await w.drain()
        for _ in range(4):
            for sale, schedule in checkpoints.claim(w.ledger, 0, 10).items():
                await step(w.gate, w.ledger, sale, schedule, every=0.1)
            await w.drain()
        assert checkpoints.claim(w.ledger, 0, 10) == {}

    world(story)


def test_applied_events_of_old_epochs_are_trimmed_like_those_of_this_one(world) -> None:
    async def story(w: World) -> None:
        await opened(w)
        for epoch in range(60):
            await w.buy(epoch, 1)
            await w.drain(keep=10)
            await restart(w.gate)
            assert await prove(w.gate, w.ledger, SALE, await w.gate.replication(), keep=10) == ""
        assert await w.gate.redis.xlen(keys.outbox(SALE)) < 10 + 101

    world(story)


def test_a_job_of_hot_sales_ends_before_its_timeout() -> None:
    assert JOB_SECONDS + BUDGET < JOB_TIMEOUT


def test_a_retry_asks_again_for_what_is_still_refused(world) -> None:
    async def story(w: World) -> None:
        await quarantined_confirm(w)
        assert (await retry(w.gate, w.ledger, SALE))[:2] == (0, 1)
        decision = (await w.gate.admit(SALE, [purchase(1)]))[0]
        assert decision.outcome is O.REPLAYED

    world(story)
