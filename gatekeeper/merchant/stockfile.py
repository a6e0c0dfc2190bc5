"""The merchant's stock file: `sku,quantity[,tracked]`, read whole and checked whole before anything is done.

Columns in any order, separated by `,` or `;`; UTF-8, with or without a byte-order mark; lines end as they like.
"""

import csv
import io
from dataclasses import dataclass

from gatekeeper.errors import InvalidInput
from gatekeeper.merchant.stock import Wanted
from gatekeeper.model import MAX_INT, SKU

MAX_LINES = 1_000_000
COLUMNS = ("sku", "quantity", "tracked")
_FLAGS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False, "": True}


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one line, and what was expected."""

    line: int
    problem: str


class BadFile(InvalidInput):
    """The file has faults, and nothing of it was used."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(f"line {fault.line}: {fault.problem}" for fault in faults))
        self.faults = faults


def parse(data: bytes) -> list[Wanted]:
    """Return what the file states of each SKU; raises BadFile with every fault in it."""
    reader = _reader(_text(data))
    columns = _columns(next(reader, []))
    wanted: list[Wanted] = []
    faults: list[Fault] = []
    seen: dict[str, int] = {}
    for row in reader:
        line = reader.line_num
        if not any(cell.strip() for cell in row):
            continue
        try:
            want = _line(row, columns)
            if want.sku in seen:
                raise ValueError(f"sku {want.sku}: stands in line {seen[want.sku]} already")
            seen[want.sku] = line
            wanted.append(want)
        except ValueError as error:
            faults.append(Fault(line, str(error)))
        if line > MAX_LINES:
            raise BadFile([*faults, Fault(line, f"expected at most {MAX_LINES} lines: split the file")])
    if faults:
        raise BadFile(faults)
    if not wanted:
        raise BadFile([Fault(1, "expected at least one line below the header")])
    return wanted


def _text(data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadFile([Fault(line, f"expected UTF-8 text, found the byte {data[error.start]:#04x}")]) from None
    if "\0" in text:
        raise BadFile([Fault(text[: text.index("\0")].count("\n") + 1, "expected text, found a NUL byte")])
    return text


def _reader(text: str):  # type: ignore[no-untyped-def]  # csv's reader has no public type
    header = text.split("\n", 1)[0]
    return csv.reader(io.StringIO(text, newline=""), delimiter=";" if ";" in header else ",", strict=False)


def _columns(header: list[str]) -> list[str]:
    names = [name.strip().lower() for name in header]
    if len(set(names)) != len(names) or not {"sku", "quantity"} <= set(names) <= set(COLUMNS):
        raise BadFile(
            [Fault(1, f"expected the header sku,quantity or sku,quantity,tracked, found {','.join(header)!r}")]
        )
    return names


def _line(row: list[str], columns: list[str]) -> Wanted:
    if len(row) != len(columns):
        raise ValueError(f"expected {len(columns)} columns, found {len(row)}")
    cells = {name: cell.strip() for name, cell in zip(columns, row, strict=True)}
    sku, quantity = cells["sku"], cells["quantity"]
    if not SKU.fullmatch(sku):
        raise ValueError(f"sku {sku!r}: expected 1 to 64 printable ASCII characters without spaces")
    tracked = _FLAGS.get(cells.get("tracked", "").lower())
    if tracked is None:
        raise ValueError(f"tracked {cells['tracked']!r}: expected yes or no")
    if not tracked:
        if quantity not in ("", "0"):
            raise ValueError(f"quantity {quantity!r}: expected nothing or 0 for a SKU that is not tracked")
        return Wanted(sku, 0, tracked=False)
    if not (quantity.isascii() and quantity.isdigit() and len(quantity) <= 10 and int(quantity) <= MAX_INT):
        raise ValueError(f"quantity {quantity!r}: expected a whole number from 0 to {MAX_INT}")
    return Wanted(sku, int(quantity))
