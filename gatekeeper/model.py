"""The values that travel: a purchase on its way in, a decision on its way out, a reservation as it stands."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

import msgspec

from gatekeeper.outcomes import Outcome

MAX_INT = 2**31 - 1
"""Largest counter, units: Redis, Lua, Python and Postgres agree on every number up to here."""

MAX_TIME_MS = 9_999_999_999_999
"""Latest time, ms since 1970 (the year 2286): Lua writes numbers of up to 14 digits as they are."""

SALE_NAME = re.compile(r"[a-z0-9-]{1,64}")
SKU = re.compile(r"[!-~]{1,64}")
IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,128}")
RESERVATION_ID = re.compile(r"[0-9a-f]{32}")
MAX_ITEMS = 20
"""Items (lines) in one purchase."""


class Value(msgspec.Struct, frozen=True, gc=False):
    """An immutable value; of those that travel by the thousand. Made at a quarter of what a dataclass costs."""


Items = tuple[tuple[str, int], ...]
"""(SKU, quantity in units), summed per SKU and sorted by SKU."""


def reservation_id(sale: str, buyer: str, key: str) -> str:
    """Return the id (32 hex digits) that any front door computes for this idempotency key of this buyer.

    The first 128 bits of SHA-256 over the parts, each prefixed with its length in bytes (4 bytes, big-endian), so
    that no two triples share an encoding.
    """
    s, b, k = sale.encode(), buyer.encode(), key.encode()
    # Written out: a loop over three parts takes twice as long, once per purchase.
    parts = len(s).to_bytes(4, "big"), s, len(b).to_bytes(4, "big"), b, len(k).to_bytes(4, "big"), k
    return sha256(b"".join(parts)).hexdigest()[:32]


def summed(items: Sequence[tuple[str, int]]) -> Items:
    """Return the items with each SKU once, quantities added up, sorted: two carts of equal content are equal."""
    if len(items) == 1:
        return tuple(items)
    totals: dict[str, int] = {}
    for sku, quantity in items:
        totals[sku] = totals.get(sku, 0) + quantity
    return tuple(sorted(totals.items()))


def pack_items(items: Items) -> str:
    """Return "sku quantity sku quantity …", which is also the fingerprint that tells a retry from a reused key."""
    return " ".join([f"{sku} {quantity}" for sku, quantity in items])


def unpack_items(packed: str) -> Items:
    """Undo `pack_items`; raises ValueError when a part is missing or is no positive number."""
    words = packed.split(" ")
    items = tuple((sku, int(quantity)) for sku, quantity in zip(words[::2], words[1::2], strict=True))
    if not items or pack_items(items) != packed or any(not sku or quantity < 1 for sku, quantity in items):
        raise ValueError(f"malformed items {packed!r}")
    return items


class Purchase(Value, frozen=True):
    """A validated wish to buy, with everything that `admit` needs."""

    sale: str
    id: str
    buyer: str
    key: str
    reference: str
    items: Items

    @classmethod
    def of(cls, sale: str, buyer: str, key: str, items: Sequence[tuple[str, int]], reference: str = "") -> "Purchase":
        """Build a purchase from validated parts; no part may contain a control character."""
        return cls(sale, reservation_id(sale, buyer, key), buyer, key, reference, summed(items))

    @property
    def particulars(self) -> str:
        """The part of the record that never changes: "buyer\\nkey\\nreference\\nitems\\n"."""
        return f"{self.buyer}\n{self.key}\n{self.reference}\n{pack_items(self.items)}\n"


class Refund(Value, frozen=True):
    """A payment that became no sale; `state` is refund_due, refunded (by `refund`) or rejected (nothing is due)."""

    payment: str
    state: str
    refund: str = ""


class Reservation(Value, frozen=True):
    """A reservation as Redis holds it. Times are ms since 1970 by Redis's clock."""

    sale: str
    id: str
    state: str
    late: bool
    payment: str
    created_ms: int
    expires_ms: int
    buyer: str
    idempotency_key: str
    reference: str
    items: Items
    refunds: tuple[Refund, ...] = ()

    @classmethod
    def admitted(cls, purchase: Purchase, now_ms: int, expires_ms: int) -> "Reservation":
        """The reservation that an admitted purchase became: what `from_record` would read, not parsed again."""
        p = purchase
        return cls(p.sale, p.id, "held", False, "", now_ms, expires_ms, p.buyer, p.key, p.reference, p.items)

    @classmethod
    def from_record(cls, sale: str, id: str, record: str) -> "Reservation":
        """Parse a record of the `reservations` hash (lua/README.md); raises ValueError when it is malformed."""
        state, late, payment, created, expires, buyer, key, reference, items, *rest, end = record.split("\n")
        if end or late not in ("0", "1") or len(rest) % 3:
            raise ValueError(f"malformed record of reservation {id}")
        times = int(created), int(expires)
        refunds = tuple(Refund(*rest[i : i + 3]) for i in range(0, len(rest), 3))
        return cls(sale, id, state, late == "1", payment, *times, buyer, key, reference, unpack_items(items), refunds)

    def record(self) -> str:
        """Undo `from_record`."""
        own = self.state, int(self.late), self.payment, self.created_ms, self.expires_ms
        particulars = self.buyer, self.idempotency_key, self.reference, pack_items(self.items)
        refunds = [part for refund in self.refunds for part in (refund.payment, refund.state, refund.refund)]
        return "".join(f"{line}\n" for line in (*own, *particulars, *refunds))


class Shortage(Value, frozen=True):
    """Why one SKU of a purchase cannot be had: units asked for, available, and held by others."""

    sku: str
    requested: int
    available: int
    held: int


class Decision(Value, frozen=True):
    """What `admit` decided about one purchase. Which of the optional parts is set depends on the outcome."""

    outcome: Outcome
    reservation: Reservation | None = None
    """admitted, replayed"""
    shortages: tuple[Shortage, ...] = ()
    """sold_out"""
    skus: tuple[str, ...] = ()
    """unknown_sku, sku_paused"""
    opens_at_ms: int = 0
    """sale_not_open; 0 when it opens by hand"""
    limit: int = 0
    """buyer_limit: units one buyer may have in this sale"""


class Position(Value, frozen=True, order=True):
    """A place in a sale's outbox, as in the event id `<epoch>-<n>`."""

    epoch: int
    n: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.n}"

    @classmethod
    def parse(cls, text: str) -> "Position":
        """Read `<epoch>-<n>`; raises ValueError."""
        epoch, n = text.split("-")
        return cls(int(epoch), int(n))

    @property
    def next(self) -> "Position":
        """The only position that may follow within the epoch."""
        return Position(self.epoch, self.n + 1)


@dataclass(frozen=True, slots=True)
class Counters:
    """A SKU's units in Redis. Invariant while tracked: available + held + sold = granted."""

    available: int
    held: int
    sold: int
    granted: int
    tracked: bool = True
    paused: bool = False

    @classmethod
    def unpack(cls, packed: str) -> "Counters":
        """Parse "available held sold granted tracked paused"; raises ValueError."""
        available, held, sold, granted, tracked, paused = map(int, packed.split(" "))
        return cls(available, held, sold, granted, bool(tracked), bool(paused))

    def pack(self) -> str:
        """Undo `unpack`."""
        return f"{self.available} {self.held} {self.sold} {self.granted} {self.tracked:d} {self.paused:d}"


class Checked(NamedTuple):
    """A comparison of Redis's counters with the ledger's at one position, as Redis keeps the newest one."""

    result: str
    """equal, unproven or drift"""
    position: str
    at_ms: int
    skus: int

    @classmethod
    def parse(cls, line: str) -> "Checked | None":
        """Read "result position at_ms skus"; None for "", before the first."""
        if not line:
            return None
        result, position, at_ms, skus = line.split(" ")
        return cls(result, position, int(at_ms), int(skus))


@dataclass(frozen=True, slots=True)
class SaleView:
    """A sale as Redis holds it, with one page of its SKUs. Times are ms since 1970; 0 = none."""

    sale: str
    epoch: int
    now_ms: int
    state: str
    opens_at_ms: int
    closes_at_ms: int
    per_buyer: int
    """Units one buyer may have; 0 = no limit."""
    hold_ms: int
    sku_count: int
    next: str
    """The last SKU of this page if another follows, else ""."""
    pending: int
    """Events that the ledger has not applied yet."""
    pending_since_ms: int
    """When the oldest of them was written; 0 = none is pending."""
    deadline_ms: int
    """Of the hold that is due first; 0 = there is no hold."""
    checkpoint: Checked | None
    """The newest comparison with the ledger; None before the first."""
    backlog_full: bool
    """Admission waits for the ledger."""
    skus: dict[str, Counters]
