"""What a purchase's body may say: everything else is 400 with where and what was expected, and never a 500."""

import json
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatekeeper.http.problems import Refused
from gatekeeper.http.validation import _CONTROL, _quick, _thorough, parse_cart
from gatekeeper.model import MAX_INT

GOOD: dict[str, Any] = {"buyer": "bob", "items": [{"sku": "A", "quantity": 2}]}


def flaws(body: bytes) -> dict[str, str]:
    with pytest.raises(Refused) as caught:
        parse_cart(body)
    assert caught.value.code == "invalid_request"
    return {flaw["pointer"]: flaw["detail"] for flaw in caught.value.members["errors"]}


def test_a_good_body_is_taken_as_it_is() -> None:
    body = {"buyer": "Zoë 1", "items": [{"sku": "A", "quantity": 2}, {"sku": "A", "quantity": 1}], "reference": "x"}
    cart = parse_cart(json.dumps(body).encode())
    buyer, items, reference = cart.buyer, cart.items, cart.reference
    assert (buyer, list(items), reference) == ("Zoë 1", [("A", 2), ("A", 1)], "x")


ITEM = {"sku": "A", "quantity": 1}
BAD: dict[str, tuple[Any, str]] = {
    "no object": ([], ""),
    "unknown member": (GOOD | {"price": 1}, "/price"),
    "no buyer": ({"items": [ITEM]}, "/buyer"),
    "buyer no text": (GOOD | {"buyer": 7}, "/buyer"),
    "buyer empty": (GOOD | {"buyer": ""}, "/buyer"),
    "buyer too long": (GOOD | {"buyer": "x" * 129}, "/buyer"),
    "buyer with a newline": (GOOD | {"buyer": "a\nb"}, "/buyer"),
    "buyer with DEL": (GOOD | {"buyer": "a\x7f"}, "/buyer"),
    "buyer with a line separator": (GOOD | {"buyer": "a\u2028b"}, "/buyer"),
    "no items": ({"buyer": "bob"}, "/items"),
    "items empty": (GOOD | {"items": []}, "/items"),
    "items too many": (GOOD | {"items": [ITEM] * 21}, "/items"),
    "items no list": (GOOD | {"items": ITEM}, "/items"),
    "item no object": (GOOD | {"items": [ITEM, 7]}, "/items/1"),
    "item without sku": (GOOD | {"items": [{"quantity": 1}]}, "/items/0/sku"),
    "item with more": (GOOD | {"items": [ITEM | {"x": 1}]}, "/items/0/x"),
    "sku with a space": (GOOD | {"items": [ITEM | {"sku": "A B"}]}, "/items/0/sku"),
    "sku too long": (GOOD | {"items": [ITEM | {"sku": "A" * 65}]}, "/items/0/sku"),
    "quantity 0": (GOOD | {"items": [ITEM | {"quantity": 0}]}, "/items/0/quantity"),
    "quantity negative": (GOOD | {"items": [ITEM | {"quantity": -1}]}, "/items/0/quantity"),
    "quantity 2^31": (GOOD | {"items": [ITEM | {"quantity": 2**31}]}, "/items/0/quantity"),
    "quantity 2^63": (GOOD | {"items": [ITEM | {"quantity": 2**63}]}, "/items/0/quantity"),
    "quantity 2^200": (GOOD | {"items": [ITEM | {"quantity": 2**200}]}, "/items/0/quantity"),
    "quantity a fraction": (GOOD | {"items": [ITEM | {"quantity": 1.0}]}, "/items/0/quantity"),
    "quantity true": (GOOD | {"items": [ITEM | {"quantity": True}]}, "/items/0/quantity"),
    "quantity NaN": (GOOD | {"items": [ITEM | {"quantity": float("nan")}]}, "/items/0/quantity"),
    "quantity infinite": (GOOD | {"items": [ITEM | {"quantity": float("inf")}]}, "/items/0/quantity"),
    "too many in all": (GOOD | {"items": [ITEM | {"quantity": MAX_INT}, ITEM]}, "/items"),
    "reference null": (GOOD | {"reference": None}, "/reference"),
    "reference empty": (GOOD | {"reference": ""}, "/reference"),
    "lone surrogate": (GOOD | {"buyer": "\ud800"}, "/buyer"),
}


@pytest.mark.parametrize(("body", "pointer"), BAD.values(), ids=BAD)
def test_a_bad_body_is_refused_where_it_is_bad(body: Any, pointer: str) -> None:
    found = flaws(json.dumps(body).encode())
    assert list(found) == [pointer]
    assert "expected" in found[pointer]


def test_every_flaw_is_named_at_once() -> None:
    body = {"buyer": 1, "items": [{"sku": "", "quantity": 0}], "x": 1}
    assert flaws(json.dumps(body).encode()).keys() == {"/buyer", "/items/0/sku", "/items/0/quantity", "/x"}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"{} {}", b'{"buyer":"a","buyer":"b"}', b"[" * 5000, b"\xef\xbb\xbf{}"]
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    assert flaws(body)


def test_a_body_cut_at_any_byte_is_refused() -> None:
    body = json.dumps(GOOD | {"reference": "order"}).encode()
    for end in range(len(body)):
        assert flaws(body[:end])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["buyer", "items", "sku", "quantity"]), inner)
    ),
    max_leaves=8,
)


@given(json_values)
def test_any_json_is_either_a_cart_or_a_400(value: Any) -> None:
    try:
        cart = parse_cart(json.dumps(value).encode())
    except Refused as refused:
        assert refused.code == "invalid_request" and refused.members["errors"]
    else:
        assert cart.buyer and all(1 <= quantity <= MAX_INT for _, quantity in cart.items)


@given(st.binary(max_size=200))
def test_any_bytes_are_either_a_cart_or_a_400(body: bytes) -> None:
    try:
        parse_cart(body)
    except Refused as refused:
        assert refused.code == "invalid_request"


texts = st.sampled_from(
    ["bob", "", " ", "a:b", "\\u0062", "\\ud800", "\\n", "\u2028", "\x85", "x" * 129, "é\u00a0", ":"]
)
numbers = st.sampled_from(["1", "0", "-1", "1.0", "1e0", "true", "null", "2147483647", "2147483648", '"1"', "NaN"])
names = st.sampled_from(["sku", "quantity", "buyer", "items", "reference", "other", "b\\u0075yer"])


@st.composite
def nearly_good_bodies(draw: st.DrawFn) -> bytes:
    """Bodies one or two slips away from a good one: what a quick reader might take by mistake."""

    def text() -> str:
        return f'"{draw(texts)}"' if draw(st.integers(0, 5)) == 0 else '"bob"'

    def item() -> str:
        members = [f'"sku":{text()}', f'"quantity":{draw(numbers) if draw(st.integers(0, 5)) == 0 else 1}']
        return "{" + ",".join([*members, *odd()]) + "}"

    def odd() -> list[str]:
        return [f'"{draw(names)}":{text()}'] if draw(st.integers(0, 9)) == 0 else []

    items = ",".join(item() for _ in range(draw(st.integers(0, 21) | st.integers(1, 2))))
    members = [f'"buyer":{text()}', f'"items":[{items}]', *odd()]
    if draw(st.booleans()):
        members.append(f'"reference":{text()}')
    return ("{" + ",".join(draw(st.permutations(members))) + "}").encode("utf-8", "surrogatepass")


@given(nearly_good_bodies())
def test_the_quick_reader_takes_nothing_that_the_thorough_one_does_not_read_the_same(body: bytes) -> None:
    quick = _quick(body)
    try:
        thorough = _thorough(body)
    except Refused:
        thorough = None
    assert quick is None or quick == thorough
    assert quick is not None or thorough is None or b"\\" in body  # plainly good ones are taken quickly


def test_a_duplicate_hidden_behind_an_escape_is_found() -> None:
    escaped = b'{"buyer":"a","buyer":"\\u003a","items":[{"sku":"A","quantity":1}]}'
    assert flaws(escaped) == {"/buyer": "expected once, found again"}


def test_no_printable_character_is_one_that_texts_may_not_have() -> None:
    characters = map(chr, range(sys.maxunicode + 1))
    assert not [c for c in characters if c.isprintable() and _CONTROL.search(c)]
