"""A flood without keys is told what Redis just said, for a moment, and only that."""

import pytest

from gatekeeper.http import soldout
from gatekeeper.http.soldout import MAX_CARTS, SECONDS, SoldOut
from gatekeeper.model import Decision, Items, Shortage, summed
from gatekeeper.outcomes import Outcome

GONE = Decision(Outcome.SOLD_OUT, shortages=(Shortage("A", 1, 0, 3),))


def cart(*items: tuple[str, int], sale: str = "s") -> tuple[str, Items]:
    return sale, summed(items or [("A", 1)])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(soldout.time, "monotonic", lambda: now[0])
    return now


def test_the_same_cart_is_told_the_same_until_the_moment_is_over(clock: list[float]) -> None:
    known = SoldOut()
    known.remember(*cart(), GONE)
    assert known.recall(*cart()) is GONE
    clock[0] += SECONDS - 0.001
    assert known.recall(*cart()) is GONE
    clock[0] += 0.001
    assert known.recall(*cart()) is None


def test_another_cart_or_sale_is_not_answered_for(clock: list[float]) -> None:
    known = SoldOut()
    known.remember(*cart(("A", 2)), GONE)
    for other in (cart(), cart(("A", 3)), cart(("A", 2), ("B", 1)), cart(("A", 2), sale="t")):
        assert known.recall(*other) is None
    assert known.recall(*cart(("A", 1), ("A", 1))) is GONE  # the same units, written otherwise


@pytest.mark.parametrize("outcome", [o for o in Outcome if o is not Outcome.SOLD_OUT])
def test_no_other_decision_is_remembered(clock: list[float], outcome: Outcome) -> None:
    known = SoldOut()
    known.remember(*cart(), Decision(outcome))
    assert known.recall(*cart()) is None


def test_the_memory_is_bounded(clock: list[float]) -> None:
    known = SoldOut()
    for i in range(3 * MAX_CARTS):
        known.remember(*cart((f"S{i}", 1)), GONE)
    assert len(known._known) <= MAX_CARTS
