"""grant: numbered, all lines or none, taken back only from what is available."""

import pytest

from gatekeeper import keys
from gatekeeper.model import MAX_INT
from gatekeeper.outcomes import Outcome as O
from gatekeeper.replies import Granted, Lacking
from tests.lua.sale import SALE, Sale


def grant(sale: Sale, number: int, *lines: tuple[str, int, bool]) -> Granted:
    return sale.run(sale.gate.grant(SALE, number, lines, actor="merchant", reason="delivery"))


def test_a_grant_makes_units_available_and_writes_its_event(sale: Sale) -> None:
    sale.create(state="draft", stock="")
    assert grant(sale, 1, ("A", 5, True), ("U", 0, False)) == Granted(O.OK, 1)
    assert sale.stock() == {"A": "5 0 0 5 1 0", "U": "0 0 0 0 0 0"}
    assert sale.plain.zrange(keys.skus(SALE), 0, -1) == ["A", "U"]
    assert sale.plain.hget(keys.sale(SALE), "granted") == "1"
    type_, _, *rest = sale.events()[-1].split("\n")
    assert [type_, *rest] == ["grant", "1", "merchant", "delivery", "A 5 1 U 0 0", ""]


REFUSED = {
    "applied already": (1, [("A", 5, True)], Granted(O.ALREADY_GRANTED, 1)),
    "one was lost": (3, [("A", 5, True)], Granted(O.GRANT_GAP, 1)),
    "tracking is fixed": (2, [("B", 1, True), ("A", 0, False)], Granted(O.TRACKING_FIXED, sku="A")),
    "too many units": (2, [("A", MAX_INT - 2, True)], Granted(O.TOO_LARGE, sku="A")),
    "not that many available": (
        2,
        [("B", -1, True), ("A", -3, True), ("C", -2, True)],
        Granted(O.NOT_AVAILABLE, lacking=(Lacking("A", 1, 2, 1, 0), Lacking("C", 2, 0, 0, 0))),
    ),
}


@pytest.mark.parametrize(("number", "lines", "reply"), REFUSED.values(), ids=REFUSED)
def test_a_refused_grant_changes_nothing(sale: Sale, number: int, lines: list, reply: Granted) -> None:
    sale.create(stock="A:3 B:1").buy("A:1")
    before = sale.snapshot()
    assert grant(sale, number, *lines) == reply
    assert sale.snapshot() == before


def test_units_are_taken_back_from_what_is_available(sale: Sale) -> None:
    sale.create(stock="A:3").buy("A:1")
    assert grant(sale, 2, ("A", -2, True)).outcome is O.OK
    assert sale.stock() == {"A": "0 1 0 1 1 0"}


def test_a_paused_sku_stays_paused(sale: Sale) -> None:
    sale.create(stock="A:3").control("pause_sku", sku="A")
    grant(sale, 2, ("A", 2, True))
    assert sale.stock() == {"A": "5 0 0 5 1 1"}


def test_a_closed_sale_takes_no_more_stock(sale: Sale) -> None:
    before = sale.create(state="closed").snapshot()
    assert grant(sale, 2, ("A", 1, True)).outcome is O.SALE_CLOSED
    assert sale.snapshot() == before
