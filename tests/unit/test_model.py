"""The values that travel."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatekeeper.model import (
    Position,
    Purchase,
    Reservation,
    pack_items,
    reservation_id,
    summed,
    unpack_items,
)

text = st.text(min_size=1, max_size=12)
items = st.lists(st.tuples(st.text("ABC-7", min_size=1, max_size=4), st.integers(1, 9)), min_size=1, max_size=6)


def test_the_id_is_the_same_on_any_front_door_and_never_changes() -> None:
    assert reservation_id("jackets", "bob", "order-1") == "72e4ddfa2805dc2f6ecd1fe5420a18f8"


@given(st.tuples(text, text, text), st.tuples(text, text, text))
def test_different_parts_never_share_an_id(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    assert (reservation_id(*one) == reservation_id(*other)) == (one == other)


def test_parts_cannot_be_shifted_into_one_another() -> None:
    assert len({reservation_id("s", "ab", "c"), reservation_id("s", "a", "bc"), reservation_id("sa", "b", "c")}) == 3


@given(items)
def test_equal_carts_are_equal_text(cart: list[tuple[str, int]]) -> None:
    assert summed(cart) == summed(cart[::-1])
    assert unpack_items(pack_items(summed(cart))) == summed(cart)
    assert sum(quantity for _, quantity in summed(cart)) == sum(quantity for _, quantity in cart)


@pytest.mark.parametrize("packed", ["", "A", "A 0", "A -1", "A 01", "A  1", "A 1 ", "A 1 B", "A x", " 1", "A 1\n"])
def test_malformed_items_are_refused(packed: str) -> None:
    with pytest.raises(ValueError):
        unpack_items(packed)


def test_a_record_reads_back_and_no_cut_of_it_does() -> None:
    purchase = Purchase.of("jackets", "bob", "k", [("A", 2), ("B", 1)], "order 7")
    record = f"held\n0\n\n5\n65\n{purchase.particulars}"
    reservation = Reservation.from_record("jackets", purchase.id, record)
    assert (reservation.buyer, reservation.reference, reservation.items) == ("bob", "order 7", (("A", 2), ("B", 1)))
    assert Reservation.admitted(purchase, 5, 65) == reservation
    for end in range(len(record)):
        with pytest.raises(ValueError):
            Reservation.from_record("jackets", purchase.id, record[:end])


def test_positions_follow_their_epoch_first() -> None:
    assert Position(1, 9) < Position(1, 10) < Position(2, 0)
    assert Position.parse("7-12") == Position(7, 12) and str(Position(7, 12).next) == "7-13"
