"""The tests are worth what they catch: each planted bug must fail the scenario that the real scripts pass."""

from collections.abc import Iterator
from hashlib import sha1

import pytest

import lua
from gatekeeper.errors import GateError
from gatekeeper.outcomes import Outcome as O
from lua import Script
from tests.lua.sale import SALE, Sale, purchase

MUTANTS = {
    "sells one more than there is": ("admit", "s.available < units", "s.available + 1 < units"),
    "strands the last unit": ("admit", "s.available < units", "s.available <= units"),
    "forgets that it sold": ("admit", "s.available = s.available - wanted[sku]", "s.available = s.available - 0"),
    "forgets who holds": ("admit", "s.held = s.held + wanted[sku]", "s.held = s.held + 0"),
    "takes a retry for a purchase": ("admit", "local record = records[purchase.id]", "local record = nil"),
    "does not see a retry within the batch": ("admit", "  records[purchase.id] = 'held", "  local lost = 'held"),
    "answers a reused key": ("admit", ".items == purchase.items and", ".items and"),
    "takes part of a cart": (
        "admit", "return unknown or paused or short", "return unknown or paused or short and #short > 5 and short",
    ),
    "counts a buyer one unit too far": ("admit", "count + units > per_buyer", "count + units > per_buyer + 1"),
    "forgets the buyer's units": (
        "admit", "counts[purchase.buyer], counted = count + units", "counts[purchase.buyer], counted = count",
    ),
    "sells when closed": ("admit", "elseif state ~= 'open' then", "elseif false then"),
    "sells a paused SKU": ("admit", "elseif s.paused then", "elseif false then"),
    "writes no event": ("admit", "last_id = redis.call('XADD', outbox_key,", "last_id = redis.call('XADD', 'lost',"),
    "sells under a fence": ("prelude", "if fence ~= '' then", "if false then"),
    "trusts another Redis": ("prelude", "if replid ~= replication_id() then", "if false then"),
    "grants twice": ("grant", "wanted <= last then", "wanted < last then"),
    "takes back what is held": ("grant", "s.available + delta < 0", "s.granted + delta < 0"),
}  # fmt: skip


def scenario(sale: Sale) -> None:
    """Sell a small sale out, with every trap in it, and look at the books."""
    sale.create(stock="A:3 B:2", per_buyer=3)
    batch = [
        purchase("A:1", key="1"), purchase("A:1", key="1"), purchase("A:2", key="1"),
        purchase("B:1 A:3", buyer="eve", key="1"), purchase("A:2", key="2"), purchase("A:1", key="3"),
        purchase("B:1", buyer="eve", key="2"), purchase("A:1", buyer="eve", key="3"),
    ]  # fmt: skip
    outcomes = [decision.outcome for decision in sale.admit(*batch)]
    assert outcomes == [
        O.ADMITTED, O.REPLAYED, O.IDEMPOTENCY_MISMATCH, O.SOLD_OUT, O.ADMITTED, O.SOLD_OUT, O.ADMITTED, O.SOLD_OUT,
    ]  # fmt: skip
    assert sale.buy("B:1", key="4").outcome is O.BUYER_LIMIT
    assert sale.buy("A:1", key="1").outcome is O.REPLAYED
    assert sale.stock() == {"A": "0 3 0 3 1 0", "B": "1 1 0 2 1 0"}
    assert len(sale.events()) == 3 + 3
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
            scenario(sale)
    finally:
        sale.close()
