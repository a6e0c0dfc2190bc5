"""admit: decide a batch of purchases, each on its own. Each test compares the reply and all that Redis then holds."""

import pytest

from gatekeeper import keys
from gatekeeper.errors import GateUnavailable, SaleFenced, UnknownSale
from gatekeeper.model import MAX_INT, Shortage
from gatekeeper.outcomes import Outcome as O
from tests.lua.sale import SALE, Sale, purchase


def test_a_purchase_takes_units_holds_them_and_writes_its_event(sale: Sale) -> None:
    sale.create(stock="A:3 B:5")
    before = sale.snapshot()
    bought = purchase("B:2 A:1", reference="order 7")
    (decision,) = sale.admit(bought)
    reservation = decision.reservation
    assert decision.outcome is O.ADMITTED and reservation
    assert reservation.expires_ms - reservation.created_ms == 60_000
    now, expires = reservation.created_ms, reservation.expires_ms
    after = sale.snapshot()
    particulars = "bob\nk1\norder 7\nA 1 B 2\n"
    assert after[keys.stock(SALE)] == {"A": "2 1 0 3 1 0", "B": "3 2 0 5 1 0"}
    assert after[keys.reservations(SALE)] == {bought.id: f"held\n0\n\n{now}\n{expires}\n{particulars}"}
    assert after[keys.due(SALE)] == [(bought.id, float(expires))]
    assert after[keys.outbox(SALE)][3:] == [("1-3", {"event": f"admit\n{now}\n{bought.id}\n{expires}\n{particulars}"})]
    untouched = before.keys() - {keys.stock(SALE), keys.outbox(SALE)}
    assert {key: after[key] for key in untouched} == {key: before[key] for key in untouched}
    assert after.keys() - before.keys() == {keys.reservations(SALE), keys.due(SALE)}


REFUSED = {
    "sold out": ({"stock": "A:3"}, "A:4", O.SOLD_OUT),
    "one of two SKUs short: neither is taken": ({"stock": "A:3 B:1"}, "A:1 B:2", O.SOLD_OUT),
    "the same SKU twice is summed": ({"stock": "A:3"}, "A:2 A:2", O.SOLD_OUT),
    "no stock at all": ({"stock": "A:0"}, "A:1", O.SOLD_OUT),
    "unknown SKU": ({"stock": "A:3"}, "A:1 Z:1", O.UNKNOWN_SKU),
    "over the buyer's limit": ({"stock": "A:3", "per_buyer": 2}, "A:3", O.BUYER_LIMIT),
    "draft": ({"state": "draft"}, "A:1", O.SALE_NOT_OPEN),
    "paused": ({"state": "paused"}, "A:1", O.SALE_PAUSED),
    "closed": ({"state": "closed"}, "A:1", O.SALE_CLOSED),
    "before it opens": ({"opens_at": 4_000_000_000_000}, "A:1", O.SALE_NOT_OPEN),
    "after it closed": ({"closes_at": 1_000_000_000_000}, "A:1", O.SALE_CLOSED),
}


@pytest.mark.parametrize(("setting", "items", "outcome"), REFUSED.values(), ids=REFUSED)
def test_a_refused_purchase_changes_nothing(sale: Sale, setting: dict, items: str, outcome: O) -> None:
    before = sale.create(**setting).snapshot()
    assert sale.buy(items).outcome is outcome
    assert sale.snapshot() == before


def test_the_last_unit_is_sold_and_then_none(sale: Sale) -> None:
    sale.create(stock="A:2")
    assert [sale.buy("A:1", key=f"k{i}").outcome for i in range(3)] == [O.ADMITTED, O.ADMITTED, O.SOLD_OUT]
    assert sale.stock() == {"A": "0 2 0 2 1 0"}


def test_sold_out_names_each_short_sku_with_what_is_available_and_held(sale: Sale) -> None:
    sale.create(stock="A:3 B:1 C:9")
    sale.buy("A:2", key="k0")
    assert sale.buy("A:2 B:2 C:1").shortages == (Shortage("A", 2, 1, 2), Shortage("B", 2, 1, 0))


def test_a_retry_is_answered_with_the_same_reservation_and_changes_nothing(sale: Sale) -> None:
    first = sale.create(stock="A:3 B:3").buy("A:1 B:2")
    before = sale.snapshot()
    again = sale.buy("B:1 A:1 B:1")  # another order and another split of the same items
    assert (again.outcome, again.reservation) == (O.REPLAYED, first.reservation)
    assert sale.snapshot() == before


@pytest.mark.parametrize("action", ["pause", "close"])
def test_a_retry_is_answered_whatever_became_of_the_sale(sale: Sale, action: str) -> None:
    first = sale.create().buy()
    sale.control(action)
    assert sale.buy().reservation == first.reservation


def test_a_reused_key_with_other_items_is_refused(sale: Sale) -> None:
    sale.create().buy("A:1")
    before = sale.snapshot()
    assert sale.buy("A:2").outcome is O.IDEMPOTENCY_MISMATCH
    assert sale.snapshot() == before


def test_the_same_key_of_another_buyer_is_another_purchase(sale: Sale) -> None:
    sale.create()
    assert [sale.buy(buyer=name).outcome for name in ("bob", "eve")] == [O.ADMITTED, O.ADMITTED]


def test_a_refusal_is_not_remembered(sale: Sale) -> None:
    sale.create(stock="A:1")
    assert sale.buy("A:2").outcome is O.SOLD_OUT
    sale.run(sale.gate.grant(SALE, 2, [("A", 1, True)], actor="test"))
    assert sale.buy("A:2").outcome is O.ADMITTED


def test_the_buyers_limit_counts_units_over_all_purchases_and_retries_once(sale: Sale) -> None:
    sale.create(stock="A:9 B:9", per_buyer=3)
    batch = [purchase("A:2", key="1"), purchase("A:2", key="1"), purchase("B:2", key="2"), purchase("B:1", key="3")]
    assert [d.outcome for d in sale.admit(*batch)] == [O.ADMITTED, O.REPLAYED, O.BUYER_LIMIT, O.ADMITTED]
    assert sale.buy("A:1", key="4").limit == 3
    assert sale.buy("A:3", buyer="eve").outcome is O.ADMITTED
    assert sale.plain.hgetall(keys.buyers(SALE)) == {"bob": "3", "eve": "3"}


def test_without_a_limit_no_buyer_is_counted(sale: Sale) -> None:
    sale.create().buy()
    assert not sale.plain.exists(keys.buyers(SALE))


def test_an_untracked_sku_is_recorded_but_not_limited_by_stock(sale: Sale) -> None:
    sale.create(stock="U:- A:1")
    assert sale.buy("U:500 A:1").outcome is O.ADMITTED
    assert sale.stock() == {"U": "0 500 0 0 0 0", "A": "0 1 0 1 1 0"}
    assert sale.buy(f"U:{MAX_INT}", key="k2").outcome is O.SOLD_OUT  # no counter may pass 2^31 - 1


def test_a_paused_sku_refuses_only_purchases_that_name_it(sale: Sale) -> None:
    sale.create(stock="A:3 B:3").control("pause_sku", sku="A")
    before = sale.snapshot()
    refused = sale.buy("A:1 B:1")
    assert (refused.outcome, refused.skus) == (O.SKU_PAUSED, ("A",))
    assert sale.snapshot() == before
    assert sale.buy("B:1").outcome is O.ADMITTED


def test_a_batch_is_decided_in_order_each_on_its_own(sale: Sale) -> None:
    sale.create(stock="A:3")
    batch = [purchase(f"A:{units}", key=str(i)) for i, units in enumerate([2, 2, 1, 1])]
    assert [d.outcome for d in sale.admit(*batch)] == [O.ADMITTED, O.SOLD_OUT, O.ADMITTED, O.SOLD_OUT]
    assert sale.stock() == {"A": "0 3 0 3 1 0"}
    assert len(sale.events()) == 3 + 2


def test_a_batch_leaves_of_what_it_admits_records_deadlines_and_events_in_order_and_of_the_rest_nothing(
    sale: Sale,
) -> None:
    sale.create(stock="A:4 B:9 U:-", per_buyer=5).buy("A:1", buyer="bob", key="0")
    before = sale.snapshot()
    batch = [
        purchase("A:2 B:1", buyer="eve", key="1", reference="x"), purchase("A:2", buyer="bob", key="1"),
        purchase("U:2", buyer="bob", key="2"), purchase("Z:1", buyer="eve", key="2"),
        purchase("A:1", buyer="eve", key="3"), purchase("U:2", buyer="bob", key="2"),
        purchase("B:9", buyer="mia", key="1"), purchase("U:2", buyer="bob", key="3"),
        purchase("B:1", buyer="zoe", key="1"),
    ]  # fmt: skip
    decisions = sale.admit(*batch)
    assert [d.outcome for d in decisions] == [
        O.ADMITTED, O.SOLD_OUT, O.ADMITTED, O.UNKNOWN_SKU, O.ADMITTED, O.REPLAYED, O.SOLD_OUT, O.ADMITTED, O.ADMITTED,
    ]  # fmt: skip
    assert decisions[5].reservation == decisions[2].reservation
    after = sale.snapshot()
    admitted = [p for p, d in zip(batch, decisions, strict=True) if d.outcome is O.ADMITTED]
    (now, expires) = {(d.reservation.created_ms, d.reservation.expires_ms) for d in decisions if d.reservation}.pop()
    records = {p.id: f"held\n0\n\n{now}\n{expires}\n{p.particulars}" for p in admitted}
    events = [f"admit\n{now}\n{p.id}\n{expires}\n{p.particulars}" for p in admitted]
    outbox = [(f"1-{n}", {"event": event}) for n, event in enumerate(events, 4)]
    due = before[keys.due(SALE)] + [(id, float(expires)) for id in sorted(records)]
    assert after == before | {
        keys.sale(SALE): before[keys.sale(SALE)] | {"buyer_units": "10"},
        keys.stock(SALE): {"A": "0 4 0 4 1 0", "B": "7 2 0 9 1 0", "U": "0 4 0 0 0 0"},
        keys.reservations(SALE): before[keys.reservations(SALE)] | records,
        keys.buyers(SALE): {"bob": "5", "eve": "4", "zoe": "1"},
        keys.due(SALE): sorted(due, key=lambda member: member[1]),
        keys.outbox(SALE): before[keys.outbox(SALE)] + outbox,
    }


def test_equal_carts_of_a_batch_are_each_told_what_is_there_at_their_turn(sale: Sale) -> None:
    sale.create(stock="A:3 B:1")
    items = ["A:2", "A:2", "A:2", "A:1 B:1", "A:2", "A:1 B:1", "A:1 B:1"]
    decisions = sale.admit(*(purchase(cart, key=str(i)) for i, cart in enumerate(items)))
    assert [d.outcome for d in decisions] == [O.ADMITTED, O.SOLD_OUT, O.SOLD_OUT, O.ADMITTED] + [O.SOLD_OUT] * 3
    assert [d.shortages for d in decisions if d.outcome is O.SOLD_OUT] == [
        (Shortage("A", 2, 1, 2),), (Shortage("A", 2, 1, 2),), (Shortage("A", 2, 0, 3),),
        (Shortage("A", 1, 0, 3), Shortage("B", 1, 0, 1)), (Shortage("A", 1, 0, 3), Shortage("B", 1, 0, 1)),
    ]  # fmt: skip


def test_equal_carts_of_a_batch_count_for_each_buyer_alone(sale: Sale) -> None:
    sale.create(stock="A:9", per_buyer=2).buy(buyer="bob", key="0")
    buyers = ["bob", "eve", "bob", "eve", "eve", "mia"]
    decisions = sale.admit(*(purchase(buyer=buyer, key=str(i)) for i, buyer in enumerate(buyers, 1)))
    assert [d.outcome for d in decisions] == [
        O.ADMITTED, O.ADMITTED, O.BUYER_LIMIT, O.ADMITTED, O.BUYER_LIMIT, O.ADMITTED,
    ]  # fmt: skip
    assert sale.plain.hgetall(keys.buyers(SALE)) == {"bob": "2", "eve": "2", "mia": "1"}
    assert sale.plain.hget(keys.sale(SALE), "buyer_units") == "5"


def test_a_retry_is_told_of_the_refund_that_its_record_carries(sale: Sale) -> None:
    sale.create().buy("A:1")
    sale.confirm("p1")
    sale.confirm("p2")
    before = sale.snapshot()
    again = sale.buy("A:1")
    assert again.outcome is O.REPLAYED and again.reservation
    assert [(r.payment, r.state) for r in again.reservation.refunds] == [("p2", "refund_due")]
    assert sale.buy("A:2").outcome is O.IDEMPOTENCY_MISMATCH
    assert sale.snapshot() == before


def test_the_largest_counters_are_exact(sale: Sale) -> None:
    sale.create(stock=f"A:{MAX_INT}")
    assert sale.buy(f"A:{MAX_INT}").outcome is O.ADMITTED
    assert sale.stock() == {"A": f"0 {MAX_INT} 0 {MAX_INT} 1 0"}


def test_a_full_backlog_stops_admission_until_the_ledger_has_caught_up(sale: Sale) -> None:
    sale.create(stock="A:9", backlog_limit=5)  # create, grant, open and two purchases
    first = [sale.buy(key=f"k{i}").outcome for i in range(3)]
    assert first == [O.ADMITTED, O.ADMITTED, O.BACKLOG_FULL]
    assert sale.buy(key="k0").outcome is O.REPLAYED
    last = sale.run(sale.gate.last_position(SALE))
    sale.run(sale.gate.applied(SALE, last, keep=10))
    assert [sale.buy(key=f"l{i}").outcome for i in range(6)] == [O.ADMITTED] * 5 + [O.BACKLOG_FULL]


# ── refused as a whole ───────────────────────────────────────────────────────────────────────────────────────────────


def test_an_unknown_sale_is_one_that_the_catalogue_lacks(sale: Sale) -> None:
    with pytest.raises(UnknownSale):
        sale.run(sale.gate.admit("gloves", [purchase()]))


@pytest.mark.parametrize(
    ("lost", "reason"), [(keys.sale(SALE), "lacks this sale's state"), (keys.CATALOGUE, "lacks the catalogue")]
)
def test_a_sale_that_redis_lost_is_fenced_not_unknown(sale: Sale, lost: str, reason: str) -> None:
    sale.create().plain.delete(lost, keys.sale(SALE))
    with pytest.raises(SaleFenced, match=reason):
        sale.buy()


FENCED = {
    "by hand": (lambda s: s.control("fence", reason="a test"), "a test"),
    "another Redis": (lambda s: s.plain.hset(keys.sale(SALE), "replid", "0" * 40), "not proven yet"),
    "other rules": (lambda s: s.plain.hset(keys.sale(SALE), "version", "0"), "rules version 0"),
    "older epoch": (lambda s: s.gate._epochs.update({SALE: 7}), "epoch 1 is older than 7"),
    "scripts lost": (lambda s: s.plain.script_flush(), "lost its scripts"),
}


@pytest.mark.parametrize(("unsure", "reason"), FENCED.values(), ids=FENCED)
def test_unsure_means_503_and_changes_nothing(sale: Sale, unsure, reason: str) -> None:
    unsure(sale.create())
    before = sale.snapshot()
    with pytest.raises(SaleFenced, match=reason):
        sale.buy()
    assert sale.snapshot() == before


NOUNS = [keys.stock, keys.reservations, keys.buyers, keys.due, keys.outbox]


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.__name__)
def test_a_key_of_the_wrong_type_fences_the_sale_before_anything_is_written(sale: Sale, noun) -> None:
    sale.create()
    sale.plain.delete(noun(SALE))
    sale.plain.set(noun(SALE), "?")
    before = sale.snapshot()
    with pytest.raises(SaleFenced, match="CORRUPT"):
        sale.buy()
    after = sale.snapshot()
    assert "CORRUPT" in after.pop(keys.sale(SALE)).pop("fence")
    assert after.pop(keys.FENCED) == {SALE}
    before.pop(keys.sale(SALE))
    assert after == before


@pytest.mark.parametrize("packed", ["-1 0 0 3 1 0", "3 0 0 3", "3.0 0 0 3 1 0", "", "3 0 0 3 1 0 "])
def test_corrupt_counters_fence_the_sale(sale: Sale, packed: str) -> None:
    sale.create().plain.hset(keys.stock(SALE), "A", packed)
    with pytest.raises(SaleFenced, match="CORRUPT"):
        sale.buy()
    assert len(sale.events()) == 3
    assert not sale.plain.exists(keys.reservations(SALE))


def test_an_outbox_of_a_later_epoch_refuses_the_first_write(sale: Sale) -> None:
    sale.create().plain.xadd(keys.outbox(SALE), {"event": "?"}, id="9-0")
    stock = sale.stock()
    with pytest.raises(SaleFenced, match="equal or smaller"):
        sale.buy()
    assert sale.stock() == stock
    assert not sale.plain.exists(keys.reservations(SALE))


def test_out_of_memory_is_refused_whole_and_retries_are_still_answered(sale: Sale) -> None:
    first = sale.create().buy()
    before = sale.snapshot()
    sale.plain.config_set("maxmemory", 1)
    try:
        with pytest.raises(GateUnavailable):
            sale.buy(key="k2")
        assert sale.buy().reservation == first.reservation
        assert sale.snapshot() == before
    finally:
        sale.plain.config_set("maxmemory", 0)
    assert sale.buy(key="k2").outcome is O.ADMITTED
