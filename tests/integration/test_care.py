"""What a person does about trouble: retry or discard what is in quarantine, repair Redis, archive a sale."""

import pytest

from gatekeeper import keys
from gatekeeper.errors import GateError, SaleArchived
from gatekeeper.gate import Gate
from gatekeeper.ledger import cursors, quarantine, sales
from gatekeeper.mending import Mending
from gatekeeper.model import Counters, Position, Refund
from gatekeeper.outcomes import Outcome as O
from tests.integration.test_endings import assert_both_sides_tell_it, id_of, live
from tests.integration.world import KEEP, SALE, World, purchase
from workers.archive import NotArchivable, archive
from workers.controller import Controller
from workers.drain import Stop
from workers.expire import sweep
from workers.quarantine import NotInQuarantine, discard, retry
from workers.reconcile import reconcile
from workers.repair import NotRepairable, Repaired, repair


async def poison(w: World, sold: int = 0) -> None:
    """Buyers 0 and 1 hold a unit each, and the ledger cannot take it: somebody made its stock too low."""
    await w.open()
    await w.drain()
    w.ledger.execute("UPDATE inventory SET granted = 0")
    await w.buy(0, 2)
    for number in range(sold):
        await w.gate.confirm(SALE, id_of(number), f"pay-{number}", actor="shop")
    await w.drain()
    assert w.one("SELECT count(*), bool_and(paused) FROM quarantine") == (2 + sold, True)
    assert (await w.gate.counters(SALE))["A"].paused


async def assert_equal(w: World) -> None:
    report = await reconcile(w.gate, w.ledger, SALE, keep=KEEP)
    assert (report.drift, report.unproven) == ([], [])


# ── quarantine ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_quarantined_is_applied_with_its_dependants_once_it_can_be(world) -> None:
    async def story(w: World) -> None:
        await poison(w, sold=1)
        report = await reconcile(w.gate, w.ledger, SALE, keep=KEEP)
        assert report.unproven == ["A"] and all(entry["unproven"] for entry in report.drift)
        assert await retry(w.gate, w.ledger, SALE) == (0, 3, [])
        w.ledger.execute("UPDATE inventory SET granted = 100")
        assert await retry(w.gate, w.ledger, SALE) == (3, 0, ["A"])
        assert w.inventory() == (100, 100, 1, 1)
        assert w.one("SELECT state, payment FROM reservations WHERE id = %s", id_of(0)) == ("sold", "pay-0")
        await w.gate.control(SALE, "resume_sku", actor="test", sku="A")
        await assert_equal(w)

    world(story)


def test_a_discarded_reservation_is_undone_on_both_sides(world) -> None:
    async def story(w: World) -> None:
        await poison(w, sold=1)
        first = quarantine.events(w.ledger, SALE)[0][0]
        done = await discard(w.gate, w.ledger, SALE, first, "never counted", keep=KEEP, actor="cli:eve")
        assert (done.reservation, done.state, done.refunds_due) == (id_of(0), "released", 1)
        r = await w.gate.reservation(SALE, id_of(0))
        assert r and (r.state, r.payment, r.refunds) == ("released", "", (Refund("pay-0", "refund_due"),))
        assert w.one("SELECT state, payment FROM reservations WHERE id = %s", id_of(0)) == ("released", "")
        assert w.one("SELECT payment, state FROM payments") == ("pay-0", "refund_due")
        assert w.one("SELECT count(*) FROM quarantine WHERE reservation = %s", id_of(0)) == (0,)
        assert w.one("SELECT actor, detail->>'reason' FROM audit WHERE action = 'discard'") == (
            "cli:eve",
            "never counted",
        )
        (second,) = [position for position, _ in quarantine.events(w.ledger, SALE)]
        done = await discard(w.gate, w.ledger, SALE, second, "never counted", keep=KEEP, actor="cli:eve")
        assert done.paused_skus == ["A"]
        w.ledger.execute("UPDATE inventory SET granted = 100")
        assert (await w.gate.counters(SALE))["A"] == Counters(100, 0, 0, 100, paused=True)
        await assert_equal(w)
        assert (await w.gate.settle(SALE, id_of(0), "back-0", actor="shop")).outcome is O.SETTLED
        await w.drain()
        assert w.one("SELECT state, refund FROM payments") == ("refunded", "back-0")

    world(story)


def test_an_end_that_the_ledger_has_not_is_undone_from_where_the_ledger_is(world) -> None:
    """The admission was applied, the confirm was not: the ledger holds, Redis has sold."""

    async def story(w: World) -> None:
        await w.open()
        await w.buy(0, 1)
        await w.drain()
        w.ledger.execute("UPDATE reservations SET state = 'expired'")
        await w.gate.confirm(SALE, id_of(0), "pay-0", actor="shop")
        await w.drain()
        w.ledger.execute("UPDATE reservations SET state = 'held'")
        ((position, _),) = quarantine.events(w.ledger, SALE)
        await discard(w.gate, w.ledger, SALE, position, "a test", keep=KEEP, actor="cli")
        assert w.inventory() == (100, 100, 0, 0)
        assert w.one("SELECT state FROM reservations") == ("released",)
        await w.gate.control(SALE, "resume_sku", actor="test", sku="A")
        await assert_equal(w)

    world(story)


def test_garbage_is_discarded_with_a_note_and_what_is_not_there_is_said_so(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.gate.redis.xadd(keys.outbox(SALE), {"event": "?"}, id="1-*")
        await w.drain()
        ((position, _),) = quarantine.events(w.ledger, SALE)
        done = await discard(w.gate, w.ledger, SALE, position, "noise", keep=KEEP, actor="cli")
        assert done.reservation == ""
        assert w.one("SELECT detail->>'payload' FROM audit WHERE action = 'discard'") == ("?",)
        with pytest.raises(NotInQuarantine):
            await discard(w.gate, w.ledger, SALE, position, "noise", keep=KEEP, actor="cli")

    world(story)


def test_settings_that_later_ones_overtook_are_never_applied_by_a_retry(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.drain()
        payload = b"control\n1\nupdate\ncli\ndraft\n0\n0\n7\n1000\n\n"
        quarantine.add(w.ledger, SALE, Position(1, 1), payload, "a test")
        assert (await retry(w.gate, w.ledger, SALE))[:2] == (0, 1)
        assert w.one("SELECT state, per_buyer FROM sales") == ("open", 0)
        assert "overtaken" in w.one("SELECT reason FROM quarantine")[0]

    world(story)


# ── repair ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def mend(w: World, **more: bool) -> Repaired:
    return await repair(w.gate, w.ledger, SALE, keep=KEEP, backlog_limit=1000, actor="cli:eve", **more)


async def everything(gate: Gate) -> dict[str, object]:
    """All that the gate decides by, but for the epoch."""
    redis = gate.redis
    return {
        "stock": await redis.hgetall(keys.stock(SALE)),
        "skus": await redis.zrange(keys.skus(SALE), 0, -1),
        "reservations": await redis.hgetall(keys.reservations(SALE)),
        "buyers": await redis.hgetall(keys.buyers(SALE)),
        "due": await redis.zrange(keys.due(SALE), 0, -1, withscores=True),
        "fields": await redis.hmget(
            keys.sale(SALE), "state", "opens_at", "closes_at", "per_buyer", "hold_ms", "granted", "buyer_units", "fence"
        ),
    }


async def change_a_counter(gate: Gate) -> None:
    await gate.redis.hset(keys.stock(SALE), "A", "3 2 4 9 1 0")


async def lose_everything(gate: Gate) -> None:
    await gate.redis.flushall()


async def lose_the_reservations(gate: Gate) -> None:
    await gate.redis.delete(keys.reservations(SALE), keys.due(SALE))


async def damage_a_counter(gate: Gate) -> None:
    await gate.redis.hset(keys.stock(SALE), "A", "what?")


async def take_over(gate: Gate) -> None:
    await gate.redis.hset(keys.sale(SALE), "replid", "0" * 40)


DAMAGE = [change_a_counter, lose_everything, lose_the_reservations, damage_a_counter, take_over]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_repair_writes_redis_anew_from_the_ledger_and_opens_an_epoch(world, damage) -> None:
    async def story(w: World) -> None:
        await live(w)
        await w.drain()
        for id in await w.gate.redis.hkeys(
            keys.reservations(SALE)
        ):  # the tests' trick changes deadlines in Redis alone
            expires = (await w.gate.reservation(SALE, id.decode())).expires_ms
            query = "UPDATE reservations SET expires_at = to_timestamp(%s / 1000.0) WHERE id = %s"
            w.ledger.execute(query, [expires, id.decode()])
        before = await everything(w.gate)
        await damage(w.gate)
        done = await mend(w)
        assert (done.epoch, done.reservations) == (2, 12)
        assert await everything(w.gate) == before
        assert w.one("SELECT actor, detail->>'epoch' FROM audit WHERE action = 'repair'") == ("cli:eve", "2")
        await w.gate.publish_catalogue([SALE])
        await assert_both_sides_tell_it(w)
        assert (await w.gate.confirm(SALE, id_of(0), "pay-0", actor="shop")).changed is False
        assert (await w.gate.release(SALE, id_of(10), "cancelled", actor="shop")).outcome is O.RELEASED
        assert await w.buy(20, 2) == 1
        await w.drain()
        assert (await w.drain()).stop is Stop.EMPTY
        await assert_equal(w)

    world(story)


def test_a_repair_needs_an_empty_quarantine_and_else_changes_nothing(world) -> None:
    async def story(w: World) -> None:
        await poison(w)
        with pytest.raises(NotRepairable, match="2 events of jackets are in quarantine"):
            await mend(w)
        view = await w.gate.availability(SALE)  # not even a fence
        assert not isinstance(view, tuple) and view.state == "open"
        assert len(quarantine.events(w.ledger, SALE)) == 2

    world(story)


def test_a_repair_drains_first_and_refuses_across_a_gap(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.buy(0, 5)
        await w.gate.redis.hset(keys.stock(SALE), "A", "94 6 0 100 1 0")
        assert (await mend(w)).skus == ["A"]
        assert w.inventory() == (100, 100, 5, 0)
        await w.buy(5, 3)
        entries = await w.gate.redis.xrange(keys.outbox(SALE))
        await w.gate.redis.xdel(keys.outbox(SALE), entries[-2][0])
        with pytest.raises(NotRepairable, match="events between them are lost"):
            await mend(w)

    world(story)


def test_a_repair_that_died_halfway_is_repeated(world, monkeypatch) -> None:
    async def story(w: World) -> None:
        await live(w)
        await w.drain()
        with monkeypatch.context() as dead:
            dead.setattr(Mending, "write_sale", dies)
            with pytest.raises(KeyboardInterrupt):
                await mend(w)
        with pytest.raises(GateError):
            await w.buy(30, 1)
        await mend(w)
        await assert_both_sides_tell_it(w)

    async def dies(*_: object) -> None:
        raise KeyboardInterrupt

    world(story)


# ── archive ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def bury(w: World):
    return await archive(w.gate, w.ledger, SALE, keep=KEEP, actor="cli:eve")


async def settle_everything(w: World) -> None:
    await w.gate.settle(SALE, id_of(1), "b1", actor="shop")
    await w.gate.settle(SALE, id_of(3), "b3", actor="shop")
    await w.gate.settle(SALE, id_of(6), "b6", actor="shop")
    await w.overdue()
    await sweep(w.gate, SALE)
    await w.gate.control(SALE, "close", actor="test")


def test_an_archived_sale_leaves_a_tombstone_and_its_books(world) -> None:
    async def story(w: World) -> None:
        await live(w)
        await settle_everything(w)
        freed = await bury(w)
        assert (freed.reservations, freed.skus) == (12, 1)
        assert freed.events > 30 and freed.bytes > 1000
        assert [key.decode() for key in await w.gate.redis.keys(f"gk1:{{{SALE}}}:*")] == [keys.sale(SALE)]
        for call in (
            w.buy(50, 1), w.gate.confirm(SALE, id_of(0), "p", actor="shop"), w.gate.reservation(SALE, id_of(0)),
            w.gate.availability(SALE), w.gate.release(SALE, id_of(0), "refund", actor="shop"),
            w.gate.control(SALE, "open", actor="test"), w.gate.checkpoint(SALE, ["A"]), w.gate.expire(SALE, 10),
        ):  # fmt: skip
            with pytest.raises(SaleArchived):
                await call
        assert w.one("SELECT state FROM sales") == ("archived",)
        assert w.one("SELECT count(*) FROM reservations") == (12,)
        assert w.one("SELECT detail->>'reservations' FROM audit WHERE action = 'archive'") == ("12",)
        assert (await bury(w)).reservations == 0  # again: nothing is left to do
        assert w.one("SELECT count(*) FROM audit WHERE action = 'archive'") == (1,)

    world(story)


def test_a_sale_is_archived_only_when_nothing_of_it_is_open(world) -> None:
    async def story(w: World) -> None:
        await live(w)
        before = await everything(w.gate)
        for reason, remedy in (
            ("is open", lambda: w.gate.control(SALE, "close", actor="test")),
            ("has holds", w.overdue),
            ("has holds", lambda: sweep(w.gate, SALE)),
            ("3 payments of jackets are due back", lambda: w.gate.settle(SALE, id_of(1), "b1", actor="shop")),
            ("2 payments of jackets are due back", lambda: w.gate.settle(SALE, id_of(3), "b3", actor="shop")),
            ("1 payments of jackets are due back", lambda: w.gate.settle(SALE, id_of(6), "b6", actor="shop")),
        ):
            with pytest.raises(NotArchivable, match=reason):
                await bury(w)
            assert (await everything(w.gate))["reservations"] == before["reservations"]
            await remedy()
            before = await everything(w.gate)
        await w.gate.redis.xadd(keys.outbox(SALE), {"event": "?"}, id="1-*")
        with pytest.raises(NotArchivable, match="in quarantine"):
            await bury(w)
        await discard(w.gate, w.ledger, SALE, quarantine.events(w.ledger, SALE)[0][0], "noise", keep=KEEP, actor="cli")
        await bury(w)

    world(story)


def test_drift_forbids_an_archive(world) -> None:
    async def story(w: World) -> None:
        await live(w)
        await settle_everything(w)
        await w.drain()
        w.ledger.execute("UPDATE inventory SET granted = granted - 1")
        with pytest.raises(NotArchivable, match="differ"):
            await bury(w)

    world(story)


def test_an_archive_that_died_before_the_ledger_knew_is_completed(world, monkeypatch) -> None:
    async def story(w: World) -> None:
        await live(w)
        await settle_everything(w)
        with monkeypatch.context() as dead:
            dead.setattr(sales, "archive", dies)
            with pytest.raises(KeyboardInterrupt):
                await bury(w)
        assert w.one("SELECT state FROM sales") == ("closed",)
        await bury(w)
        assert w.one("SELECT state FROM sales") == ("archived",)
        assert cursors.read(w.ledger, SALE) is None

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    world(story)


def test_a_redis_that_lost_the_tombstone_gets_it_back(world) -> None:
    async def story(w: World) -> None:
        await live(w)
        await settle_everything(w)
        await bury(w)
        await w.gate.redis.flushall()
        with pytest.raises(GateError):
            await w.buy(60, 1)
        await Controller(w.connections()).round()
        with pytest.raises(SaleArchived):
            await w.gate.admit(SALE, [purchase(60)])

    world(story)
