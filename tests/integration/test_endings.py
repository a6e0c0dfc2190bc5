"""How holds end in the ledger: exactly what Redis did, once, and nothing that contradicts it."""

import pytest

from gatekeeper import keys
from gatekeeper.gate import Gate
from gatekeeper.model import Counters, Purchase, Reservation
from gatekeeper.outcomes import Outcome as O
from tests.integration.world import KEEP, SALE, World, purchase
from workers.drain import Stop
from workers.reconcile import reconcile


def id_of(number: int) -> str:
    return purchase(number).id


async def live(w: World) -> None:
    """Eight buyers, each with another end; 8 units are as many as there are."""
    await w.open(units=8, per_buyer=2)
    assert await w.buy(0, 8) == 8
    for number in (0, 1, 2):
        await w.gate.confirm(SALE, id_of(number), f"pay-{number}", actor="shop")
    await w.gate.confirm(SALE, id_of(1), "pay-1b", actor="shop")  # paid twice
    await w.gate.release(SALE, id_of(2), "refund", actor="shop")
    await w.gate.settle(SALE, id_of(2), "back-2", actor="shop")
    await w.gate.release(SALE, id_of(3), "cancelled", actor="shop")
    await w.gate.confirm(SALE, id_of(3), "pay-3", actor="shop")  # paid what was released
    await w.overdue()
    await w.gate.confirm(SALE, id_of(4), "pay-4", actor="shop")  # overdue, not swept
    assert (await w.gate.expire(SALE, 100)).expired == 3
    await w.gate.confirm(SALE, id_of(5), "pay-5", actor="shop")  # expired, taken again
    assert await w.buy(10, 9) == 4
    await w.gate.confirm(SALE, id_of(6), "pay-6", actor="shop")  # expired, nothing left


ENDS = {
    0: ("sold", False, "pay-0"), 1: ("sold", False, "pay-1"), 2: ("released", False, ""), 3: ("released", False, ""),
    4: ("sold", True, "pay-4"), 5: ("sold", True, "pay-5"), 6: ("expired", False, ""), 7: ("expired", False, ""),
}  # fmt: skip
PAYMENTS = {
    (0, "pay-0", "sold", ""), (1, "pay-1", "sold", ""), (1, "pay-1b", "refund_due", ""),
    (2, "pay-2", "refunded", "back-2"), (3, "pay-3", "refund_due", ""), (4, "pay-4", "sold", ""),
    (5, "pay-5", "sold", ""), (6, "pay-6", "refund_due", ""),
}  # fmt: skip


async def assert_both_sides_tell_it(w: World) -> None:
    for number, end in ENDS.items():
        query = "SELECT state, late, payment FROM reservations WHERE id = %s"
        assert w.one(query, id_of(number)) == end
        r = await w.gate.reservation(SALE, id_of(number))
        assert isinstance(r, Reservation) and (r.state, r.late, r.payment) == end
    expected = {(id_of(number), *rest) for number, *rest in PAYMENTS}
    assert set(w.ledger.execute("SELECT id, payment, state, refund FROM payments")) == expected
    assert (await w.gate.counters(SALE))["A"] == Counters(0, 4, 4, 8)
    assert w.inventory() == (8, 8, 4, 4)
    assert w.one("SELECT units FROM cursors") == (8,)
    assert w.one("SELECT sum(granted), sum(held), sum(sold) FROM movements") == (8, 4, 4)
    assert w.one("SELECT count(*) FROM quarantine") == (0,)
    report = await reconcile(w.gate, w.ledger, SALE, keep=KEEP)
    assert report.drift == []


def test_every_end_of_a_hold_reaches_the_ledger(world) -> None:
    async def story(w: World) -> None:
        await live(w)
        await w.drain()
        await assert_both_sides_tell_it(w)

    world(story)


def test_the_ledger_is_the_same_however_the_events_are_cut_into_batches(world, monkeypatch) -> None:
    monkeypatch.setattr("workers.drain.BATCH", 1)

    async def story(w: World) -> None:
        await live(w)
        while (await w.drain()).events:
            pass
        await assert_both_sides_tell_it(w)

    world(story)


CONTRADICTIONS = {
    "an end of what was never made": "expire\n1\n" + "f" * 32 + "\n",
    "a hold that ends twice": f"expire\n1\n{id_of(3)}\n",
    "a sale of what is released": f"confirm\n1\n{id_of(3)}\nshop\np\nsold\n",
    "a sale taken again of what is held": f"confirm\n1\n{id_of(8)}\nshop\np\nretaken\n",
    "a payment that is known already": f"confirm\n1\n{id_of(0)}\nshop\npay-0\nrefund_due\n",
    "a refund of what is not due": f"settle\n1\n{id_of(0)}\nshop\npay-0\nr\n",
    "a second refund": f"settle\n1\n{id_of(2)}\nshop\npay-2\nr\n",
    "a release of a sale for no reason": f"release\n1\n{id_of(0)}\nshop\nheld\nrefund\n",
    "a rejected hold": f"release\n1\n{id_of(0)}\nshop\nsold\nwhim\n",
}


@pytest.mark.parametrize("event", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_an_end_that_contradicts_the_ledger_is_quarantined_and_so_is_what_follows_it(world, event: str) -> None:
    async def story(w: World) -> None:
        await live(w)
        await w.drain()
        before = w.one("SELECT held, sold FROM inventory"), w.one("SELECT count(*) FROM movements")
        dependant = f"settle\n1\n{event.split(chr(10))[2]}\nshop\npay\nback\n"
        for payload in (event, dependant):
            await w.gate.redis.xadd(keys.outbox(SALE), {"event": payload}, id="1-*")
        assert (await w.drain()).stop is Stop.EMPTY
        rows = w.ledger.execute("SELECT convert_from(event, 'UTF8'), reason FROM quarantine ORDER BY n").fetchall()
        assert [row[0] for row in rows] == [event, dependant]
        assert rows[1][1] == "an earlier event of the same reservation is in quarantine"
        assert (w.one("SELECT held, sold FROM inventory"), w.one("SELECT count(*) FROM movements")) == before

    world(story)


def test_a_checkpoint_compares_all_buyers_units_where_there_is_a_limit(world) -> None:
    async def story(w: World) -> None:
        await w.open(per_buyer=5)
        await w.buy(0, 10)
        await w.gate.redis.hset(keys.sale(SALE), "buyer_units", 9)
        report = await reconcile(w.gate, w.ledger, SALE, keep=KEEP)
        both = {"redis": {"units": 9}, "ledger": {"units": 10}}
        assert report.drift == [{"sku": "", **both, "unproven": False}]

    world(story)


def test_the_newest_comparison_can_be_read_from_redis(world) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.buy(0, 10)
        report = await reconcile(w.gate, w.ledger, SALE, keep=KEEP)
        view = await w.gate.availability(SALE)
        assert not isinstance(view, tuple)
        assert view.checkpoint
        assert (view.checkpoint.result, view.checkpoint.position, view.checkpoint.skus) == (
            "equal", str(report.position), 1,
        )  # fmt: skip

    world(story)


@pytest.mark.parametrize(("more", "state"), [(5, "open"), (6, "paused")])
def test_a_surplus_pauses_the_sku_at_any_size_and_over_five_percent_the_sale(world, more: int, state: str) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.gate.redis.hset(keys.stock(SALE), "A", f"{100 + more} 0 0 {100 + more} 1 0")
        await reconcile(w.gate, w.ledger, SALE, keep=KEEP)
        view = await w.gate.availability(SALE)
        assert not isinstance(view, tuple) and (view.skus["A"].paused, view.state) == (True, state)
        assert w.one("SELECT bool_and(stopped) FROM checkpoints") == (True,)

    world(story)


def test_a_surplus_is_stopped_even_if_the_drain_died_before_it_could(world, monkeypatch) -> None:
    async def story(w: World) -> None:
        await w.open()
        await w.gate.redis.hset(keys.stock(SALE), "A", "101 0 0 101 1 0")
        with monkeypatch.context() as dead:
            dead.setattr("workers.drain._stop_surplus", die)
            with pytest.raises(KeyboardInterrupt):
                await reconcile(w.gate, w.ledger, SALE, keep=KEEP)
        assert not (await w.gate.counters(SALE))["A"].paused
        await w.drain()
        assert (await w.gate.counters(SALE))["A"].paused

    async def die(gate: Gate, *_: object) -> None:
        raise KeyboardInterrupt

    world(story)


def test_the_hold_of_a_buyer_at_his_limit_frees_it_when_it_ends(world) -> None:
    async def story(w: World) -> None:
        await w.open(per_buyer=1)
        assert await w.buy(0, 1) == 1
        again = Purchase.of(SALE, "buyer-0", "another", [("A", 1)])
        assert (await w.gate.admit(SALE, [again]))[0].outcome is O.BUYER_LIMIT
        await w.overdue()
        await w.gate.expire(SALE, 10)
        assert (await w.gate.admit(SALE, [again]))[0].outcome is O.ADMITTED

    world(story)
