"""The tests are worth what they catch: each planted bug must fail the scenario that the real scripts pass."""

from collections.abc import Iterator
from hashlib import sha1

import pytest

import lua
from gatekeeper import keys
from gatekeeper.errors import GateError
from gatekeeper.model import Shortage
from gatekeeper.outcomes import Outcome as O
from lua import Script
from tests.lua.sale import SALE, Sale, purchase

MUTANTS = {
    "sells one more than there is": ("admit", "s.available < units", "s.available + 1 < units"),
    "strands the last unit": ("admit", "s.available < units", "s.available <= units"),
    "forgets that it sold": ("admit", "s.available = s.available - line.units", "s.available = s.available - 0"),
    "forgets who holds": ("admit", "s.held = s.held + line.units", "s.held = s.held + 0"),
    "takes a retry for a purchase": ("admit", "records[id] or known_records[i]", "records[id]"),
    "does not see a retry within the batch": ("admit", "records[id] or known_records[i]", "known_records[i]"),
    "answers a reused key": ("admit", "recorded_items(id, record) == items[i] and", "recorded_items(id, record) and"),
    "takes part of a cart": (
        "admit", "return unknown or paused or short", "return unknown or paused or short and #short > 5 and short",
    ),
    "refuses with the figures of before": ("admit", "cart.asked_after ~= count", "not cart.refusal"),
    "takes what was free before": ("admit", "cart.asked_after ~= count", "cart.asked_after == nil"),
    "counts a buyer one unit too far": (
        "admit", "has + cart.units > per_buyer", "has + cart.units > per_buyer + 1",
    ),
    "forgets the buyer's units": (
        "admit", "counts[buyer], counted = has + cart.units", "counts[buyer], counted = has",
    ),
    "forgets what the buyer had": ("admit", "known_counts[i] or 0", "0"),
    "keeps no record but the last": (
        "admit", "new_records[2 * count - 1], new_records[2 * count]", "new_records[1], new_records[2]",
    ),
    "sweeps one hold only": ("admit", "new_due[2 * count - 1], new_due[2 * count]", "new_due[1], new_due[2]"),
    "sells when closed": ("admit", "elseif state ~= 'open' then", "elseif false then"),
    "sells a paused SKU": ("admit", "elseif s.paused then", "elseif false then"),
    "writes no event": ("admit", "last_id = redis.call('XADD', outbox_key,", "last_id = redis.call('XADD', 'lost',"),
    "sells under a fence": ("prelude", "if fence ~= '' then", "if false then"),
    "trusts another Redis": ("prelude", "if replid ~= replication_id() then", "if false then"),
    "grants twice": ("grant", "wanted <= last then", "wanted < last then"),
    "takes back what is held": ("grant", "s.available + delta < 0", "s.granted + delta < 0"),
    "sells a unit twice over": ("confirm", "if r.state == 'sold' and r.payment == payment then", "if false then"),
    "forgets the second payment": (
        "confirm", "add_refund(r, payment, 'refund_due')", "local _ = add_refund"
    ),
    "takes again what is gone": ("confirm", "s.available < wanted[sku]", "s.available < 0"),
    "takes again past the limit": ("confirm", "count_of(buyers_key, r.buyer) + units <= per_buyer", "true"),
    "takes again after a refund": ("confirm", "and #r.refunds == 0 and", "and"),
    "does not mark what was late": ("confirm", "outcome == 'sold' and '0' or '1'", "'0'"),
    "sweeps what is sold": ("confirm", "redis.call('ZREM', due_key, id)", "local _ = due_key"),
    "gives a sold unit back for nothing": ("release", "not UNPAID[reason]", "false"),
    "lets a buyer undo his sale": ("release", "buyer ~= '' or not UNPAID", "not UNPAID"),
    "lets a buyer release another's": ("release", "buyer ~= '' and buyer ~= r.buyer", "false"),
    "gives back what was given back": ("release", "elseif r.state == 'expired' then", "elseif false then"),
    "keeps the buyer's count": ("release", "give_back(buyers_key, r.buyer, units)", "local _ = give_back"),
    "keeps the money": ("release", "r.payment, UNPAID[reason])", "r.payment, 'rejected')"),
    "clamps a counter": ("expire", "if s[from] < 0 then", "if false then"),
    "expires before the deadline": ("expire", "'-inf', now, 'LIMIT'", "'-inf', '+inf', 'LIMIT'"),
    "gives back one unit of many": (
        "expire", "sign * wanted[sku] * (times or 1)", "sign * math.min(1, wanted[sku])"
    ),
    "expires without an event": ("expire", "redis.call('XADD', outbox_key, next_id", "redis.call('XADD', 'x', next_id"),
    "refunds twice": ("settle", "entry.state == 'refunded' and entry.refund == refund", "false"),
    "refunds any of several": ("settle", "elseif #due > 1 then", "elseif false then"),
}  # fmt: skip


def scenario(sale: Sale) -> None:
    """Sell a small sale out, with every trap in it, and look at the books."""
    sale.create(stock="A:3 B:2", per_buyer=3)
    batch = [
        purchase("A:1", key="1"), purchase("A:1", key="1"), purchase("A:2", key="1"),
        purchase("B:1 A:3", buyer="eve", key="1"), purchase("A:2", key="2"), purchase("A:1", key="3"),
        purchase("B:1", buyer="eve", key="2"), purchase("A:1", buyer="eve", key="3"),
        purchase("B:1 A:3", buyer="eve", key="4"),
    ]  # fmt: skip
    decisions = sale.admit(*batch)
    assert [decision.outcome for decision in decisions] == [
        O.ADMITTED, O.REPLAYED, O.IDEMPOTENCY_MISMATCH, O.SOLD_OUT, O.ADMITTED, O.SOLD_OUT, O.ADMITTED, O.SOLD_OUT,
        O.SOLD_OUT,
    ]  # fmt: skip
    assert [decisions[i].shortages for i in (3, 8)] == [(Shortage("A", 3, 2, 1),), (Shortage("A", 3, 0, 3),)]
    assert sale.buy("B:1", key="4").outcome is O.BUYER_LIMIT
    assert sale.buy("A:1", key="1").outcome is O.REPLAYED
    assert sale.stock() == {"A": "0 3 0 3 1 0", "B": "1 1 0 2 1 0"}
    assert len(sale.events()) == 3 + 3
    assert sale.plain.zcard(keys.due(SALE)) == 3
    again = sale.run(sale.gate.grant(SALE, 1, [("A", 3, True)], actor="test"))
    lower = sale.run(sale.gate.grant(SALE, 2, [("A", -1, True)], actor="test"))
    assert (again.outcome, lower.outcome) == (O.ALREADY_GRANTED, O.NOT_AVAILABLE)
    sale.control("pause_sku", sku="B")
    assert sale.buy("B:1", buyer="mia").outcome is O.SKU_PAUSED
    sale.control("pause")
    assert sale.buy("B:1", buyer="mia").outcome is O.SALE_PAUSED
    sale.control("close")
    assert sale.buy("B:1", buyer="mia").outcome is O.SALE_CLOSED
    for field, value in (("fence", "a test"), ("replid", "0" * 40)):
        sale.plain.hset(f"gk1:{{{SALE}}}:sale", field, value)
        with pytest.raises(GateError):
            sale.buy("A:1", key="1")
        sale.plain.hset(f"gk1:{{{SALE}}}:sale", "fence", "")


def lives(sale: Sale) -> None:
    """Let holds end in every way, with every trap in it, and look at the books."""
    sale.create(stock="A:8", per_buyer=3)
    ids = {name: purchase(buyer=name).id for name in ("bob", "eve", "mia", "tom", "zoe")}
    for name in ids:
        sale.buy("A:2" if name == "tom" else "A:1", buyer=name)
    assert sale.expire().expired == 0
    assert sale.release("refund", id=ids["bob"], buyer="eve").outcome is O.UNKNOWN_RESERVATION
    assert [sale.confirm("p", id=ids["bob"]).changed for _ in "12"] == [True, False]
    assert [sale.confirm("q", id=ids["bob"]).outcome for _ in "12"] == [O.PAYMENT_MISMATCH] * 2
    sale.confirm("r", id=ids["bob"])
    assert sale.settle("back", id=ids["bob"]).outcome is O.PAYMENT_AMBIGUOUS
    assert [sale.settle("back", id=ids["bob"], payment="q").outcome for _ in "12"] == [O.SETTLED] * 2
    assert [(r.payment, r.state) for r in sale.settle("b2", id=ids["bob"]).reservation.refunds] == [
        ("q", "refunded"), ("r", "refunded"),
    ]  # fmt: skip
    assert sale.release("refund", id=ids["bob"], buyer="bob").outcome is O.NOT_HELD
    assert sale.release("a whim", id=ids["bob"]).outcome is O.NOT_HELD
    assert sale.release("refund", id=ids["bob"]).reservation.refunds[0].state == "refund_due"
    sale.confirm("p", id=ids["eve"])
    sale.overdue()
    assert sale.confirm("p", id=ids["mia"]).reservation.late
    assert sale.expire().expired == 2
    assert sale.release(id=ids["zoe"]).outcome is O.HOLD_EXPIRED
    assert sale.stock() == {"A": "6 0 2 8 1 0"}
    assert sale.plain.hgetall(keys.buyers(SALE)) == {"eve": "1", "mia": "1"}
    assert sale.buy("A:2", buyer="tom", key="k2").outcome is O.ADMITTED
    assert sale.confirm("p", id=ids["tom"]).outcome is O.HOLD_EXPIRED  # he has two of three already
    assert sale.buy("A:2", buyer="ann").outcome is sale.buy("A:2", buyer="pat").outcome is O.ADMITTED
    assert sale.confirm("p", id=ids["zoe"]).outcome is O.HOLD_EXPIRED  # nothing is left
    sale.grant(2, ("A", 5, True))
    assert sale.confirm("s", id=ids["zoe"]).outcome is O.HOLD_EXPIRED  # a refund is due: it sticks
    assert sale.release(id=purchase(buyer="pat").id).outcome is O.RELEASED
    assert sale.stock() == {"A": "7 4 2 13 1 0"}
    assert sale.plain.hgetall(keys.buyers(SALE)) == {"eve": "1", "mia": "1", "tom": "2", "ann": "2"}
    types = [event.split("\n")[0] for event in sale.events()]
    assert (types.count("expire"), types.count("confirm"), types.count("release"), types.count("settle")) == (
        2,
        8,
        2,
        2,
    )
    sale.plain.hset(keys.stock(SALE), "A", "11 0 2 13 1 0")  # whoever held them, no counter says so
    sale.overdue()
    with pytest.raises(GateError):
        sale.expire()


SCENARIOS = {"confirm": lives, "release": lives, "expire": lives, "settle": lives}


def test_the_real_scripts_let_holds_end(sale: Sale) -> None:
    lives(sale)


def test_the_real_scripts_pass_the_scenario(sale: Sale) -> None:
    scenario(sale)


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Change a piece of one script's text; a piece that is not there any more fails the test."""

    def change(name: str, old: str, new: str) -> None:
        def mutated(script: Script) -> Script:
            text = script.text
            if name in (script.name, "prelude"):
                assert text.count(old) == 1, f"{old!r} is not once in {script.name}"
                text = text.replace(old, new)
            return Script(script.name, text, sha1(text.encode()).hexdigest())

        for key, script in list(lua.SCRIPTS.items()):
            monkeypatch.setitem(lua.SCRIPTS, key, mutated(script))

    yield change


@pytest.mark.parametrize(("name", "old", "new"), MUTANTS.values(), ids=MUTANTS)
def test_every_planted_bug_is_caught(plant, redis_url: str, name: str, old: str, new: str) -> None:
    plant(name, old, new)
    sale = Sale(redis_url)
    try:
        with pytest.raises((AssertionError, GateError, pytest.fail.Exception)):
            SCENARIOS.get(name, scenario)(sale)
    finally:
        sale.close()
