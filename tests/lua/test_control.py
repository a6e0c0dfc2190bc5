"""control: the life of a sale, its settings, pauses, fences and epochs."""

import pytest

from gatekeeper import keys
from gatekeeper.errors import SaleFenced
from gatekeeper.outcomes import Outcome as O
from gatekeeper.replies import Changed
from tests.lua.sale import SALE, Sale

STATES = ("draft", "open", "paused", "closed")
MOVES = {  # action: what each of STATES becomes, or the refusal
    "open": ("open", "open", O.SALE_PAUSED, O.SALE_CLOSED),
    "pause": (O.SALE_NOT_OPEN, "paused", "paused", O.SALE_CLOSED),
    "resume": (O.SALE_NOT_OPEN, "open", "open", O.SALE_CLOSED),
    "close": (O.SALE_NOT_OPEN, "closed", "closed", "closed"),
}
TABLE = [(action, state, result) for action, row in MOVES.items() for state, result in zip(STATES, row, strict=True)]


@pytest.mark.parametrize(("action", "state", "result"), TABLE)
def test_every_action_moves_every_state_or_changes_nothing(sale: Sale, action: str, state: str, result: str) -> None:
    before = sale.create(state=state).snapshot()
    reply = sale.control(action)
    if isinstance(result, O) or result == state:
        assert reply == (Changed(result) if isinstance(result, O) else Changed(O.OK, state, False))
        assert sale.snapshot() == before
        return
    assert reply == Changed(O.OK, result, True)
    after = sale.snapshot()
    assert after[keys.sale(SALE)] == before[keys.sale(SALE)] | {"state": result}
    type_, _, *rest = sale.events()[-1].split("\n")
    assert [type_, *rest] == ["control", action, "test", result, "0", "0", "0", "60000", "", ""]
    changed = {keys.sale(SALE), keys.outbox(SALE)}
    assert {k: v for k, v in after.items() if k not in changed} == {k: v for k, v in before.items() if k not in changed}


def test_a_sale_is_created_once(sale: Sale) -> None:
    before = sale.create().snapshot()
    terms = {"opens_at": 0, "closes_at": 0, "per_buyer": 9, "hold_ms": 1, "backlog_limit": 1}
    assert sale.control("create", **terms) == Changed(O.SALE_EXISTS)
    assert sale.snapshot() == before


def test_settings_change_together_with_their_event(sale: Sale) -> None:
    sale.create(per_buyer=1)
    assert sale.control("update", opens_at=5, per_buyer=2) == Changed(O.OK, "open", True)
    assert sale.plain.hmget(keys.sale(SALE), "opens_at", "closes_at", "per_buyer", "hold_ms") == [
        "5",
        "0",
        "2",
        "60000",
    ]
    assert sale.events()[-1].split("\n")[2:] == ["update", "test", "open", "5", "0", "2", "60000", "", ""]


def test_settings_that_are_so_already_change_nothing(sale: Sale) -> None:
    before = sale.create().snapshot()
    assert sale.control("update", hold_ms=60_000) == Changed(O.OK, "open", False)
    assert sale.snapshot() == before


@pytest.mark.parametrize(("state", "refusal"), [("open", O.LIMIT_NOT_COUNTED), ("closed", O.SALE_CLOSED)])
def test_a_limit_cannot_begin_once_purchases_were_not_counted(sale: Sale, state: str, refusal: O) -> None:
    before = sale.create(state=state).snapshot()
    assert sale.control("update", per_buyer=2) == Changed(refusal)
    assert sale.snapshot() == before


def test_a_sku_is_paused_and_resumed_each_with_one_event(sale: Sale) -> None:
    sale.create()
    replies = [sale.control(action, sku="A").changed for action in ("pause_sku", "pause_sku", "resume_sku")]
    assert replies == [True, False, True]
    assert sale.stock() == {"A": "3 0 0 3 1 0"}
    assert [event.split("\n")[2] for event in sale.events()[3:]] == ["pause_sku", "resume_sku"]
    assert sale.control("pause_sku", sku="Z") == Changed(O.UNKNOWN_SKU)


def test_a_fence_stops_everything_but_control(sale: Sale) -> None:
    sale.create()
    assert sale.control("fence", reason="a test").changed
    for call in (lambda: sale.control("pause"), sale.buy, lambda: sale.run(sale.gate.availability(SALE))):
        with pytest.raises(SaleFenced, match="a test"):
            call()


def test_a_proven_sale_begins_the_next_epoch_naming_its_predecessor(sale: Sale) -> None:
    sale.create().buy()
    sale.control("fence", reason="a test")
    assert sale.control("prove", last_id="1-3", fence="a test") == Changed(O.OK, "open", True)
    last_id, fields = sale.plain.xrevrange(keys.outbox(SALE), count=1)[0]
    type_, _, *rest = fields["event"].split("\n")
    assert (last_id, type_, rest) == ("2-0", "epoch", ["1-3", "test", ""])
    assert sale.plain.hmget(keys.sale(SALE), "epoch", "fence") == ["2", ""]
    assert sale.buy(key="k2").outcome is O.ADMITTED
    assert sale.plain.xrevrange(keys.outbox(SALE), count=1)[0][0] == "2-1"


def test_a_sale_with_events_beyond_the_proof_stays_fenced(sale: Sale) -> None:
    sale.create().buy()
    sale.control("fence", reason="a test")
    before = sale.snapshot()
    assert sale.control("prove", last_id="1-2", fence="") == Changed(O.NOT_DRAINED, detail="1-3")
    assert sale.snapshot() == before


def test_only_a_draft_is_deleted_and_leaves_nothing(sale: Sale) -> None:
    sale.create(state="open")
    assert sale.control("delete") == Changed(O.NOT_A_DRAFT)
    sale.plain.flushdb()
    sale.create(state="draft", stock="A:3").control("delete")
    assert sale.snapshot() == {}
