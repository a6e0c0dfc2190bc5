"""Bodies, read strictly.

A purchase has two readers that agree (a property test holds them to it): `_quick` takes the plain, valid body in one
pass and gives up on anything unusual; `_thorough` takes everything, and finds every flaw with its JSON pointer.
"""

import json
import re
from typing import Annotated, Any

import msgspec

from gatekeeper.http.problems import Flaw, invalid
from gatekeeper.model import MAX_INT, MAX_ITEMS, SKU, Value

MAX_BODY = 16 * 1024
"""Bytes: 20 items of the longest SKUs, escaped character by character, still fit."""
MAX_TEXT = 128
"""Characters (code points) of a buyer, a reference."""
_MAX_FLAWS = 50

TEXT = f"expected a string of 1 to {MAX_TEXT} characters, not blank, without control characters"
_SKU = "expected a string of 1 to 64 printable ASCII characters without spaces"
_QUANTITY = f"expected an integer from 1 to {MAX_INT}"
_ITEMS = f"expected an array of 1 to {MAX_ITEMS} items"
_EXPECTED = {
    "buyer": TEXT,
    "items": _ITEMS,
    "sku": _SKU,
    "quantity": _QUANTITY,
    "payment": TEXT,
    "reason": TEXT,
    "refund": TEXT,
}
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""C0, DEL, C1, the two line separators of Unicode, and halves of surrogate pairs."""

_is_sku = SKU.fullmatch


class Cart(Value, frozen=True):
    """What a valid body says; `items` are (SKU, units) as sent, `reference` is "" when absent."""

    buyer: str
    items: list[tuple[str, int]]
    reference: str = ""


def parse_cart(body: bytes) -> Cart:
    """Read a purchase's body; raises Refused (400 invalid_request) with every flaw."""
    return _quick(body) or _thorough(body)


def parse_texts(body: bytes, required: str, optional: str = "") -> dict[str, str]:
    """Read a body of one text member, and perhaps another; raises Refused (400 invalid_request) with every flaw."""
    flaws: list[Flaw] = []
    members = _members(_decode(body), "", (required,), (optional,) if optional else (), flaws)
    flaws.extend(Flaw(f"/{name}", TEXT) for name, value in members.items() if not valid_text(value))
    if flaws:
        raise invalid(*flaws[:_MAX_FLAWS])
    return members


def valid_text(value: object) -> bool:
    """Whether this may be a buyer or a reference."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or value.isspace():
        return False
    return value.isprintable() or not _CONTROL.search(value)  # the first is quick, and nothing printable is the second


class _Item(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    sku: str
    quantity: Annotated[int, msgspec.Meta(ge=1, le=MAX_INT)]


class _Body(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    buyer: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TEXT)]
    items: Annotated[list[_Item], msgspec.Meta(min_length=1, max_length=MAX_ITEMS)]
    reference: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_TEXT)] = ""


_decode_body = msgspec.json.Decoder(_Body).decode


def _quick(body: bytes) -> Cart | None:
    """A small part of `_thorough`'s time; None: not plainly valid."""
    try:
        content = _decode_body(body)
    except (msgspec.DecodeError, UnicodeDecodeError):  # of which ValidationError is one
        return None
    buyer, reference = content.buyer, content.reference
    items, total, colons = [], 0, 2 + buyer.count(":")
    for item in content.items:
        sku, quantity = item.sku, item.quantity
        if not _is_sku(sku):
            return None
        items.append((sku, quantity))
        total += quantity
        colons += 2 + sku.count(":")
    if reference:
        colons += 1 + reference.count(":")
    # msgspec keeps the last of duplicate members silently. Nothing being escaped, each one more is one more colon.
    if total > MAX_INT or body.count(b":") != colons or b"\\" in body:
        return None
    if not _plain(buyer) or (reference and not _plain(reference)):
        return None
    return Cart(buyer, items, reference)


def _plain(text: str) -> bool:
    """`valid_text` of what msgspec has measured."""
    return (text.isprintable() and not text.isspace()) or valid_text(text)


class _Object(list[tuple[str, Any]]):
    """A JSON object's members as they came, duplicates and all."""


def _thorough(body: bytes) -> Cart:
    flaws: list[Flaw] = []
    content = _decode(body)
    members = _members(content, "", ("buyer", "items"), ("reference",), flaws)
    if not valid_text(members.get("buyer", "-")):
        flaws.append(Flaw("/buyer", TEXT))
    if not valid_text(members.get("reference", "-")):
        flaws.append(Flaw("/reference", TEXT))
    items = _items(members["items"], flaws) if "items" in members else []
    if flaws:
        raise invalid(*flaws[:_MAX_FLAWS])
    return Cart(members["buyer"], items, members.get("reference", ""))


def _decode(body: bytes) -> object:
    try:
        # NaN and Infinity, which are no JSON, become floats here: refused where they stand, as nothing may be one.
        return json.loads(body.decode("utf-8"), object_pairs_hook=_Object)
    except UnicodeDecodeError as error:
        raise invalid(Flaw("", f"expected UTF-8; byte {error.start} is none")) from None
    except json.JSONDecodeError as error:
        raise invalid(Flaw("", f"expected JSON; {error.msg[:1].lower()}{error.msg[1:]} at {error.pos}")) from None
    except RecursionError:
        raise invalid(Flaw("", "expected less nesting")) from None
    except ValueError as error:  # integers of thousands of digits
        raise invalid(Flaw("", f"expected JSON numbers; {error}"[:160])) from None


def _members(
    value: object, at: str, required: tuple[str, ...], optional: tuple[str, ...], flaws: list[Flaw]
) -> dict[str, Any]:
    """The known members of an object; flaws for what is unknown, twice there, or missing."""
    known: dict[str, Any] = {}
    if not isinstance(value, _Object):
        flaws.append(Flaw(at, f"expected an object with {', '.join(required)}"))
        return known
    for name, member in value:
        if name not in required and name not in optional:
            flaws.append(Flaw(f"{at}/{_token(name)}", f"unknown; expected only {', '.join((*required, *optional))}"))
        elif name in known:
            flaws.append(Flaw(f"{at}/{name}", "expected once, found again"))
        known.setdefault(name, member)
    flaws.extend(Flaw(f"{at}/{name}", f"missing; {_EXPECTED[name]}") for name in required if name not in known)
    return known


def _token(name: str) -> str:
    """A member's name as a part of a JSON pointer; cut, and with what is no character spelt out."""
    shown = name if len(name) <= 64 else f"{name[:63]}…"
    return shown.encode("utf-8", "backslashreplace").decode().replace("~", "~0").replace("/", "~1")


def _items(value: object, flaws: list[Flaw]) -> list[tuple[str, int]]:
    # An object is a list here too, of pairs.
    if not isinstance(value, list) or isinstance(value, _Object) or not 0 < len(value) <= MAX_ITEMS:
        flaws.append(Flaw("/items", _ITEMS))
        return []
    found = len(flaws)
    items = [_item(item, f"/items/{i}", flaws) for i, item in enumerate(value)]
    if len(flaws) == found and sum(quantity for _, quantity in items) > MAX_INT:
        flaws.append(Flaw("/items", f"expected quantities of {MAX_INT} in all at most"))
    return items


def _item(value: object, at: str, flaws: list[Flaw]) -> tuple[str, int]:
    members = _members(value, at, ("sku", "quantity"), (), flaws)
    sku, quantity = members.get("sku", "-"), members.get("quantity", 1)
    if not isinstance(sku, str) or not _is_sku(sku):
        flaws.append(Flaw(f"{at}/sku", _SKU))
    if type(quantity) is not int or not 0 < quantity <= MAX_INT:
        flaws.append(Flaw(f"{at}/quantity", _QUANTITY))
    return sku, quantity
