"""The merchant's file: read whole, checked whole, every fault named with its line."""

import pytest

from gatekeeper.merchant.stock import Wanted
from gatekeeper.merchant.stockfile import BadFile, parse
from gatekeeper.model import MAX_INT

GOOD = {
    "plain": b"sku,quantity\nA,5\nB,0\n",
    "byte-order mark and CRLF": b"\xef\xbb\xbfsku,quantity\r\nA,5\r\nB,0\r\n",
    "semicolons": b"sku;quantity\nA;5\nB;0\n",
    "columns in another order": b"quantity,SKU\n5,A\n0,B\n",
    "quotes, spaces, blank lines, no last newline": b'sku,quantity\n"A", 5\n\n,\nB,0',
}


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD)
def test_files_as_people_write_them_are_read(data: bytes) -> None:
    assert parse(data) == [Wanted("A", 5), Wanted("B", 0)]


def test_untracked_skus_state_no_quantity() -> None:
    assert parse(b"sku,quantity,tracked\nA,5,yes\nU,,no\nV,0,false\n") == [
        Wanted("A", 5), Wanted("U", 0, tracked=False), Wanted("V", 0, tracked=False),
    ]  # fmt: skip


def test_every_bad_line_is_named_and_nothing_is_used() -> None:
    lines = ["A,5,yes", "B,-1,yes", "C C,1,yes", "D,1.5,", "A,7,yes", "E,1,maybe", "F,1", "G,3,no"]
    with pytest.raises(BadFile) as caught:
        parse("\n".join(["sku,quantity,tracked", *lines]).encode())
    found = {fault.line: fault.problem for fault in caught.value.faults}
    assert found.keys() == {3, 4, 5, 6, 7, 8, 9}
    assert found[3] == f"quantity '-1': expected a whole number from 0 to {MAX_INT}"
    assert "line 2" in found[6] and "A" in found[6]
    assert "expected yes or no" in found[7] and "expected 3 columns, found 2" in found[8]


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", 1),
        (b"sku,quantity\n", 1),
        (b"A,5\n", 1),
        (b"sku,quantity,colour\nA,5,red\n", 1),
        (b"sku,sku,quantity\nA,A,5\n", 1),
        (b"sku,quantity\nA,5\n\xff,1\n", 3),
        (b"sku,quantity\nA\x00,5\n", 2),
        (f"sku,quantity\nA,{MAX_INT + 1}\n".encode(), 2),
        ("sku,quantity\nA,\u0665\n".encode(), 2),
        (b"sku,quantity\nA,\n", 2),
    ],
)
def test_a_file_that_is_none_says_what_was_expected(data: bytes, line: int) -> None:
    with pytest.raises(BadFile) as caught:
        parse(data)
    assert [fault.line for fault in caught.value.faults] == [line]
    assert "expected" in caught.value.faults[0].problem
