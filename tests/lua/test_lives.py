"""How a reservation ends: reply, record, counters, buyer's count and events of every way there is."""

import pytest

from gatekeeper import keys
from gatekeeper.errors import SaleFenced
from gatekeeper.model import Refund
from gatekeeper.outcomes import Outcome as O
from tests.lua.sale import SALE, Sale, purchase

MINE = purchase().id


def books(sale: Sale) -> tuple[dict[str, str], dict[str, str], str | None, int]:
    """Stock, buyers' counts, their sum, and how many holds are due."""
    units = sale.plain.hget(keys.sale(SALE), "buyer_units")
    return sale.stock(), sale.plain.hgetall(keys.buyers(SALE)), units, sale.plain.zcard(keys.due(SALE))


def last_event(sale: Sale) -> list[str]:
    """The newest event's fields but its time."""
    type_, _, *fields, _ = sale.events()[-1].split("\n")
    return [type_, *fields]


@pytest.fixture
def held(sale: Sale) -> Sale:
    """bob holds 2 of 3 A and 1 U, which is not tracked."""
    sale.create(stock="A:3 U:-", per_buyer=4)
    assert sale.buy("A:2 U:1").outcome is O.ADMITTED
    return sale


HELD = ({"A": "1 2 0 3 1 0", "U": "0 1 0 0 0 0"}, {"bob": "3"}, "3", 1)
SOLD = ({"A": "1 0 2 3 1 0", "U": "0 0 1 0 0 0"}, {"bob": "3"}, "3", 0)
BACK = ({"A": "3 0 0 3 1 0", "U": "0 0 0 0 0 0"}, {}, "0", 0)


def same_again(sale: Sale, call, outcome: O) -> None:
    """The call once more: the same answer, and nothing changes."""
    before = sale.snapshot()
    turn = call()
    assert (turn.outcome, turn.changed) == (outcome, False)
    assert sale.snapshot() == before


def test_a_payment_in_time_makes_a_sale(held: Sale) -> None:
    turn = held.confirm("p1")
    assert (turn.outcome, turn.changed) == (O.CONFIRMED, True)
    assert (turn.reservation.state, turn.reservation.late, turn.reservation.payment) == ("sold", False, "p1")
    assert books(held) == SOLD
    assert last_event(held) == ["confirm", MINE, "shop", "p1", "sold"]
    same_again(held, lambda: held.confirm("p1"), O.CONFIRMED)


def test_an_overdue_hold_that_nobody_swept_is_still_sold_marked_late(held: Sale) -> None:
    held.overdue()
    turn = held.confirm("p1")
    assert (turn.outcome, turn.reservation.state, turn.reservation.late) == (O.CONFIRMED, "sold", True)
    assert books(held) == SOLD
    assert last_event(held)[-1] == "late"
    assert held.expire().expired == 0


def test_a_second_payment_is_refused_and_due_back(held: Sale) -> None:
    held.confirm("p1")
    turn = held.confirm("p2")
    assert (turn.outcome, turn.changed) == (O.PAYMENT_MISMATCH, True)
    assert turn.reservation.refunds == (Refund("p2", "refund_due"),)
    assert (turn.reservation.state, turn.reservation.payment) == ("sold", "p1")
    assert books(held) == SOLD
    assert last_event(held) == ["confirm", MINE, "shop", "p2", "refund_due"]
    same_again(held, lambda: held.confirm("p2"), O.PAYMENT_MISMATCH)
    same_again(held, lambda: held.confirm("p1"), O.CONFIRMED)


def test_a_released_hold_gives_everything_back_once(held: Sale) -> None:
    turn = held.release("cancelled")
    assert (turn.outcome, turn.changed, turn.reservation.state) == (O.RELEASED, True, "released")
    assert books(held) == BACK
    assert last_event(held) == ["release", MINE, "shop", "held", "cancelled"]
    same_again(held, lambda: held.release("cancelled"), O.RELEASED)
    same_again(held, lambda: held.release("something else"), O.RELEASED)


def test_a_payment_for_a_released_hold_is_due_back(held: Sale) -> None:
    held.release()
    turn = held.confirm("p1")
    assert (turn.outcome, turn.reservation.state) == (O.NOT_HELD, "released")
    assert turn.reservation.refunds == (Refund("p1", "refund_due"),)
    assert books(held) == BACK
    same_again(held, lambda: held.confirm("p1"), O.NOT_HELD)


@pytest.mark.parametrize(("reason", "state"), [("refund", "refund_due"), ("rejected", "rejected")])
def test_a_sold_unit_comes_back_by_refund_or_rejection(held: Sale, reason: str, state: str) -> None:
    held.confirm("p1")
    turn = held.release(reason)
    assert (turn.outcome, turn.reservation.state, turn.reservation.payment) == (O.RELEASED, "released", "")
    assert turn.reservation.refunds == (Refund("p1", state),)
    assert books(held) == BACK
    assert last_event(held) == ["release", MINE, "shop", "sold", reason]
    same_again(held, lambda: held.release(reason), O.RELEASED)
    same_again(held, lambda: held.confirm("p1"), O.NOT_HELD)


def test_a_sold_unit_comes_back_for_no_other_reason_and_for_no_buyer(held: Sale) -> None:
    held.confirm("p1")
    same_again(held, lambda: held.release("cancelled"), O.NOT_HELD)
    same_again(held, lambda: held.release("refund", buyer="bob"), O.NOT_HELD)


def test_a_buyer_releases_his_own_hold_and_sees_no_other(held: Sale) -> None:
    before = held.snapshot()
    assert held.release(buyer="eve").outcome is O.UNKNOWN_RESERVATION
    assert held.snapshot() == before
    assert held.release(buyer="bob").outcome is O.RELEASED


def test_a_hold_expires_at_its_deadline_and_not_before(held: Sale) -> None:
    before = held.snapshot()
    early = held.expire()
    assert (early.expired, early.oldest_ms) == (0, early.next_ms)
    assert early.now_ms < early.next_ms
    assert held.snapshot() == before
    held.overdue()
    swept = held.expire()
    assert (swept.expired, swept.next_ms) == (1, 0)
    assert 0 < swept.oldest_ms <= swept.now_ms
    assert books(held) == BACK
    assert last_event(held) == ["expire", MINE]
    assert held.run(held.gate.reservation(SALE, MINE)).state == "expired"
    assert held.expire().expired == 0


def test_a_late_payment_takes_the_units_again(held: Sale) -> None:
    held.overdue()
    held.expire()
    turn = held.confirm("p1")
    assert (turn.outcome, turn.reservation.state, turn.reservation.late) == (O.CONFIRMED, "sold", True)
    assert books(held) == SOLD
    assert last_event(held)[-1] == "retaken"
    same_again(held, lambda: held.confirm("p1"), O.CONFIRMED)


def sell_the_rest(sale: Sale) -> None:
    assert sale.buy("A:2", buyer="eve").outcome is O.ADMITTED


def reach_the_limit(sale: Sale) -> None:
    assert sale.buy("U:2", key="k2").outcome is O.ADMITTED


@pytest.mark.parametrize("obstacle", [sell_the_rest, reach_the_limit, lambda s: s.control("pause_sku", sku="A")])
def test_a_late_payment_without_units_is_due_back_and_stays_so(held: Sale, obstacle) -> None:
    held.overdue()
    held.expire()
    obstacle(held)
    before = books(held)
    turn = held.confirm("p1")
    assert (turn.outcome, turn.changed, turn.reservation.state) == (O.HOLD_EXPIRED, True, "expired")
    assert turn.reservation.refunds == (Refund("p1", "refund_due"),)
    assert books(held) == before
    held.grant(2, ("A", 9, True))
    held.control("resume_sku", sku="A")
    held.control("update", per_buyer=100)
    same_again(held, lambda: held.confirm("p1"), O.HOLD_EXPIRED)
    assert held.confirm("p2").reservation.refunds == (Refund("p1", "refund_due"), Refund("p2", "refund_due"))


def test_an_expired_hold_cannot_be_released(held: Sale) -> None:
    held.overdue()
    held.expire()
    same_again(held, held.release, O.HOLD_EXPIRED)


@pytest.mark.parametrize("action", ["pause", "close"])
def test_pause_and_close_stop_no_end_of_a_hold(held: Sale, action: str) -> None:
    for key in ("k2", "k3"):
        held.buy("U:1", buyer=key, key=key)
    held.control(action)
    assert held.confirm().outcome is O.CONFIRMED
    assert held.release(id=purchase(buyer="k2", key="k2").id).outcome is O.RELEASED
    held.overdue()
    assert held.expire().expired == 1
    assert books(held) == SOLD


def test_a_refund_is_settled_once(held: Sale) -> None:
    held.confirm("p1")
    held.confirm("p2")
    turn = held.settle("r1")
    assert (turn.outcome, turn.changed) == (O.SETTLED, True)
    assert turn.reservation.refunds == (Refund("p2", "refunded", "r1"),)
    assert last_event(held) == ["settle", MINE, "shop", "p2", "r1"]
    same_again(held, lambda: held.settle("r1"), O.SETTLED)
    same_again(held, lambda: held.settle("r2"), O.REFUND_MISMATCH)
    same_again(held, lambda: held.settle("r1", payment="p1"), O.NOTHING_DUE)
    same_again(held, lambda: held.confirm("p2"), O.PAYMENT_MISMATCH)


def test_of_several_refunds_one_is_named(held: Sale) -> None:
    held.release()
    for payment in ("p1", "p2"):
        held.confirm(payment)
    same_again(held, held.settle, O.PAYMENT_AMBIGUOUS)
    assert held.settle("r2", payment="p2").outcome is O.SETTLED
    assert held.settle("r1").reservation.refunds == (Refund("p1", "refunded", "r1"), Refund("p2", "refunded", "r2"))


def test_nothing_is_due_where_nothing_was_paid_or_the_payment_was_rejected(held: Sale) -> None:
    same_again(held, held.settle, O.NOTHING_DUE)
    held.confirm("p1")
    held.release("rejected")
    same_again(held, held.settle, O.NOTHING_DUE)


@pytest.mark.parametrize("call", ["confirm", "release", "settle"])
def test_what_was_never_reserved_is_unknown(held: Sale, call: str) -> None:
    before = held.snapshot()
    turn = getattr(held, call)("x", id="f" * 32)
    assert (turn.outcome, turn.reservation) == (O.UNKNOWN_RESERVATION, None)
    assert held.snapshot() == before


def test_the_retry_of_a_purchase_shows_what_became_of_it(held: Sale) -> None:
    held.overdue()
    held.expire()
    held.buy("A:3", buyer="eve")
    held.confirm("p1")
    decision = held.buy("A:2 U:1")
    assert (decision.outcome, decision.reservation.state) == (O.REPLAYED, "expired")
    assert decision.reservation.refunds == (Refund("p1", "refund_due"),)


def test_a_sweep_is_bounded_and_takes_the_most_overdue_first(sale: Sale) -> None:
    sale.create(stock="A:30")
    ids = [purchase(buyer=f"b{i}").id for i in range(30)]
    sale.admit(*(purchase(buyer=f"b{i}") for i in range(30)))
    sale.plain.zadd(keys.due(SALE), {id: 1000 + i for i, id in enumerate(ids)})
    swept = sale.expire(10)
    assert (swept.expired, swept.oldest_ms, swept.next_ms) == (10, 1000, 1010)
    assert [event.split("\n")[2] for event in sale.events()[-10:]] == ids[:10]
    assert sale.stock() == {"A": "10 20 0 30 1 0"}
    assert [sale.expire(1000).expired for _ in range(2)] == [20, 0]


def test_ten_stale_holds_of_one_sku_give_back_ten_units(sale: Sale) -> None:
    """What the runbook's `UPDATE … FROM` gave back was one unit."""
    sale.create(stock="A:10")
    sale.admit(*(purchase(buyer=f"b{i}") for i in range(10)))
    sale.overdue()
    assert sale.expire().expired == 10
    assert sale.stock() == {"A": "10 0 0 10 1 0"}


@pytest.mark.parametrize("noun", ["buyers", "stock"])
def test_counters_that_reservations_contradict_are_not_clamped(held: Sale, noun: str) -> None:
    if noun == "stock":
        held.plain.hset(keys.stock(SALE), "A", "3 0 0 3 1 0")
    else:
        held.plain.hset(keys.buyers(SALE), "bob", "1")
    held.overdue()
    before = {key: value for key, value in held.snapshot().items() if not key.endswith((":sale", "fenced"))}
    with pytest.raises(SaleFenced, match="CORRUPT"):
        held.expire()
    assert {k: v for k, v in held.snapshot().items() if not k.endswith((":sale", "fenced"))} == before
