"""What is damaged, misspelt or too large is refused before the first write, never guessed (invariant 7).

Lua rolls nothing back, so each test looks at everything that Redis holds afterwards.
"""

import pytest
import redis

from gatekeeper import keys
from gatekeeper.errors import GateUnavailable, InvalidInput, SaleFenced
from gatekeeper.gate import MAX_BATCH
from gatekeeper.model import MAX_INT, MAX_TIME_MS
from gatekeeper.outcomes import Outcome as O
from gatekeeper.replies import Changed
from tests.lua.sale import NOUNS, SALE, Sale, purchase

CALLS = {
    "admit": lambda s: s.buy("A:1", key="new"),
    "confirm": lambda s: s.confirm(),
    "release": lambda s: s.release(),
    "expire": lambda s: s.run(s.gate.expire(SALE, 10)),
    "settle": lambda s: s.settle(),
    "discard": lambda s: s.run(s.gate.discard(SALE, purchase().id, "a test", actor="cli")),
    "grant": lambda s: s.grant(2, ("A", 1, True)),
    "control": lambda s: s.control("pause"),
    "checkpoint": lambda s: s.run(s.gate.checkpoint(SALE, ["A"])),
    "reservation": lambda s: s.run(s.gate.reservation(SALE, purchase().id)),
    "availability": lambda s: s.run(s.gate.availability(SALE, skus=["A"])),
}


def ready(sale: Sale, verb: str) -> Sale:
    """A sale in which the call of this verb changes something."""
    sale.create().buy()
    if verb == "settle":
        sale.confirm("p1")
        sale.confirm("p2")
    if verb == "expire":
        sale.overdue()
    return sale


def but_the_fence(snapshot: dict) -> dict:
    """A snapshot without what fencing itself writes."""
    rest = {key: value for key, value in snapshot.items() if key != keys.FENCED}
    if isinstance(rest.get(keys.sale(SALE)), dict):
        rest[keys.sale(SALE)] = rest[keys.sale(SALE)] | {"fence": ""}
    return rest


def refuses(sale: Sale, call, match: str = "CORRUPT") -> None:
    """The call fences the sale, saying why, and writes nothing else."""
    before = sale.snapshot()
    with pytest.raises(SaleFenced, match=match):
        call(sale)
    assert but_the_fence(sale.snapshot()) == but_the_fence(before)


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("verb", "noun"), [(verb, noun) for verb in CALLS for noun in NOUNS[verb]])
def test_a_key_of_the_wrong_type_is_found_before_anything_is_written(sale: Sale, verb: str, noun: str) -> None:
    key = getattr(keys, noun)(SALE)
    sale.create(per_buyer=2).buy()
    sale.plain.delete(key)
    sale.plain.set(key, "?")
    refuses(sale, CALLS[verb], f"CORRUPT {key} is a string")


@pytest.mark.parametrize("verb", CALLS)
def test_a_fence_stops_every_verb(sale: Sale, verb: str) -> None:
    sale.create().buy()
    sale.control("fence", reason="a test")
    refuses(sale, CALLS[verb], "a test")


# ── the sale's own fields ────────────────────────────────────────────────────────────────────────────────────────────

NEEDED = {
    "admit": "epoch fence state opens_at closes_at per_buyer hold_ms applied_n backlog_limit buyer_units",
    "confirm": "epoch fence state per_buyer buyer_units",
    "release": "epoch fence state per_buyer buyer_units",
    "expire": "epoch fence state per_buyer buyer_units",
    "settle": "epoch fence",
    "discard": "epoch fence per_buyer buyer_units",
    "grant": "epoch fence state granted",
    "control": "epoch fence state opens_at",
    "checkpoint": "epoch fence",
    "reservation": "epoch fence",
    "availability": "epoch fence state opens_at closes_at per_buyer hold_ms",
}
LOST = [(verb, field) for verb, fields in NEEDED.items() for field in fields.split()]


@pytest.mark.parametrize(("verb", "field"), LOST)
def test_a_lost_field_of_the_sale_is_never_defaulted(sale: Sale, verb: str, field: str) -> None:
    sale.create().buy()
    sale.plain.hdel(keys.sale(SALE), field)
    refuses(sale, CALLS[verb], "CORRUPT|was lost")


@pytest.mark.parametrize("value", ["", "x", "1.5", "1e3", "-7", " 1", "nan", str(10**16)])
@pytest.mark.parametrize("field", ["opens_at", "per_buyer", "hold_ms", "backlog_limit", "applied_n"])
def test_a_damaged_number_of_the_sale_is_never_used(sale: Sale, field: str, value: str) -> None:
    sale.create().plain.hset(keys.sale(SALE), field, value)
    refuses(sale, CALLS["admit"])


def test_a_state_that_there_is_not_is_not_taken_for_closed(sale: Sale) -> None:
    sale.create().plain.hset(keys.sale(SALE), "state", "opne")
    refuses(sale, CALLS["admit"])


# ── stock and records ────────────────────────────────────────────────────────────────────────────────────────────────

DAMAGED_STOCK = {
    "negative": "-1 0 0 3 1 0", "a part missing": "3 0 0 3", "a fraction": "3.0 0 0 3 1 0", "empty": "",
    "something after it": "3 0 0 3 1 0 ", "a flag that is none": "3 0 0 3 2 0",
    "more available than was granted": "9 0 0 3 1 0", "units that are nowhere": "1 1 0 3 1 0",
    "units of what is not tracked": "3 0 0 3 0 0", "too large": f"{MAX_INT + 1} 0 0 {MAX_INT + 1} 1 0",
}  # fmt: skip


@pytest.mark.parametrize("verb", ["admit", "grant", "checkpoint"])
@pytest.mark.parametrize("packed", DAMAGED_STOCK.values(), ids=DAMAGED_STOCK)
def test_counters_that_cannot_be_are_never_sold_from(sale: Sale, verb: str, packed: str) -> None:
    sale.create().plain.hset(keys.stock(SALE), "A", packed)
    refuses(sale, CALLS[verb])


@pytest.mark.parametrize("read", [lambda s: s.buy(), CALLS["reservation"]], ids=["retry", "reservation"])
def test_a_damaged_record_is_neither_a_retry_nor_another_cart(sale: Sale, read) -> None:
    sale.create().buy()
    record = sale.plain.hget(keys.reservations(SALE), purchase().id)
    for damaged in ("", record[:-1], record[: len(record) // 2], record.replace("held\n", ""), record + "\n"):
        sale.plain.hset(keys.reservations(SALE), purchase().id, damaged)
        refuses(sale, read)
        sale.plain.hset(keys.sale(SALE), "fence", "")


def test_a_damaged_buyers_count_is_not_a_limit(sale: Sale) -> None:
    sale.create(per_buyer=2).plain.hset(keys.buyers(SALE), "bob", "?")
    refuses(sale, CALLS["admit"])


# ── what a front door sends ──────────────────────────────────────────────────────────────────────────────────────────


class Malformed:
    """Stands for a purchase whose particulars are these."""

    id, items = "a" * 32, ()

    def __init__(self, particulars: str) -> None:
        self.particulars = particulars


BAD_ITEMS = ["A 2 A 2", "A 1 B 1 A 1", "A -1", "A 0", "A 01", "A 1.5", "A 1 B", "A  1", " A 1", "A 1 ", "A", "1"]


@pytest.mark.parametrize("items", BAD_ITEMS)
def test_items_that_are_not_summed_and_whole_hold_nothing(sale: Sale, items: str) -> None:
    sale.create(stock="A:3 B:3")
    bad = Malformed(f"bob\nk\n\n{items}\n")
    refuses(sale, lambda s: s.admit(purchase("B:1"), bad))


@pytest.mark.parametrize("cut", [0, 1, 4, 6, 9, 10])
def test_cut_particulars_hold_nothing(sale: Sale, cut: int) -> None:
    sale.create()
    bad = Malformed("bob\nk1\n\nA 1\n"[:cut])
    refuses(sale, lambda s: s.admit(bad))


MISSHAPEN = [
    "bo\0b\nk1\n\nA 1\n", "bob\nk\t1\n\nA 1\n", "bob\nk1\nref\x7f\nA 1\n", "bob\nk1\n\nA\r 1\n", "\nk1\n\nA 1\n",
    "bob\n\n\nA 1\n", "bob\nk1\n\n\n", "bob\nk1\n\nA 1\n\n", "bob\nk1\n\n\nA 1\n", "bob\nk1\n\nA 1\nheld\n", "\n\n\n\n",
]  # fmt: skip


@pytest.mark.parametrize("particulars", MISSHAPEN, ids=repr)
@pytest.mark.parametrize("per_buyer", [0, 2])
def test_particulars_that_are_not_four_plain_lines_hold_nothing(sale: Sale, particulars: str, per_buyer: int) -> None:
    sale.create(per_buyer=per_buyer)
    refuses(sale, lambda s: s.admit(purchase(key="good"), Malformed(particulars)))


def test_a_retry_whose_record_has_damaged_refunds_is_not_answered(sale: Sale) -> None:
    sale.create().buy()
    record = sale.plain.hget(keys.reservations(SALE), purchase().id)
    for damaged in ("p2\n", "p2\nrefund_due\n", "p2\nrefund due\n\n", "p2\nrefund_due\n\n\n"):
        sale.plain.hset(keys.reservations(SALE), purchase().id, record + damaged)
        refuses(sale, lambda s: s.buy())
        sale.plain.hset(keys.sale(SALE), "fence", "")


def test_a_batch_without_the_last_particulars_holds_nothing(sale: Sale) -> None:
    before = sale.create().snapshot()
    with pytest.raises(redis.ResponseError):
        sale.evaluate("admit", 0, purchase().id, purchase().particulars, "b" * 32)
    assert sale.snapshot() == before


def test_the_largest_batch_is_decided_and_a_larger_one_is_not_sent(sale: Sale) -> None:
    sale.create(stock=f"A:{2 * MAX_BATCH}", backlog_limit=MAX_INT, per_buyer=MAX_INT)
    batch = [purchase(buyer=f"b{i}") for i in range(MAX_BATCH + 1)]
    assert {d.outcome for d in sale.admit(*batch[:MAX_BATCH])} == {O.ADMITTED}
    before = sale.snapshot()
    with pytest.raises(ValueError):
        sale.admit(*batch)
    parts = [part for p in batch for part in (p.id, p.particulars)]
    with pytest.raises(redis.ResponseError, match="CORRUPT"):
        sale.evaluate("admit", 0, *parts)
    assert sale.snapshot() == before


def test_an_empty_batch_decides_nothing(sale: Sale) -> None:
    before = sale.create().snapshot()
    assert sale.admit() == []
    assert sale.snapshot() == before


def test_as_many_skus_as_one_likes_are_read(sale: Sale) -> None:
    view = sale.run(sale.create().gate.availability(SALE, skus=["A"] * 9000))
    assert not isinstance(view, tuple) and list(view.skus) == ["A"]


# ── what merchants and operators send ────────────────────────────────────────────────────────────────────────────────

TERMS = {"opens_at": 0, "closes_at": 0, "per_buyer": 0, "hold_ms": 60_000, "backlog_limit": 10}
BAD_TERMS = [
    {"hold_ms": "soon"}, {"hold_ms": 0}, {"hold_ms": MAX_INT + 1}, {"per_buyer": -1}, {"per_buyer": 1.5},
    {"opens_at": MAX_TIME_MS + 1}, {"closes_at": ""}, {"backlog_limit": None}, {"per_buyer": "007"}, {"holdms": 5},
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD_TERMS, ids=str)
def test_settings_out_of_bounds_are_not_sent(sale: Sale, bad: dict) -> None:
    before = sale.snapshot()
    with pytest.raises(InvalidInput, match=next(iter(bad))):
        sale.control("create", **TERMS | bad)
    assert sale.snapshot() == before
    before = sale.create().snapshot()
    with pytest.raises(InvalidInput, match=next(iter(bad))):
        sale.control("update", **bad)
    assert sale.snapshot() == before


@pytest.mark.parametrize("bad", [bad for bad in BAD_TERMS if "holdms" not in bad and None not in bad.values()], ids=str)
@pytest.mark.parametrize("action", ["create", "update"])
def test_settings_out_of_bounds_are_refused_by_the_script_too(sale: Sale, action: str, bad: dict) -> None:
    if action == "update":
        sale.create()
    before = sale.snapshot()
    fields = [part for pair in (TERMS | bad).items() for part in pair]
    with pytest.raises(redis.ResponseError, match="CORRUPT"):
        sale.evaluate("control", 0, action, "test", *fields)
    assert sale.snapshot() == before


@pytest.mark.parametrize("missing", TERMS)
def test_a_sale_is_not_created_without_all_its_settings(sale: Sale, missing: str) -> None:
    before = sale.snapshot()
    with pytest.raises(SaleFenced, match="CORRUPT"):
        sale.control("create", **{name: value for name, value in TERMS.items() if name != missing})
    assert sale.snapshot() == before


@pytest.mark.parametrize("noun", [noun for noun in NOUNS["control"] if noun != "sale"])
def test_a_sale_is_not_created_over_what_is_left_of_another(sale: Sale, noun: str) -> None:
    sale.create(per_buyer=2).buy()
    for other in set(NOUNS["control"]) - {noun}:
        sale.plain.delete(getattr(keys, other)(SALE))
    before = sale.snapshot()
    assert sale.control("create", **TERMS) == Changed(O.SALE_EXISTS)
    assert sale.snapshot() == before


BAD_GRANTS = {
    "a number that is none": ("x", "A", 1, 1), "half a number": ("1.5", "A", 1, 1), "half a unit": (2, "A", "0.5", 1),
    "a flag that is none": (2, "A", 1, 2), "a SKU of two words": (2, "A B", 1, 1), "no SKU": (2, "", 1, 1),
    "a line cut short": (2, "A", 1), "more than any counter": (2, "A", 10**20, 1),
    "units of what is not tracked": (2, "U", 5, 0),
}  # fmt: skip


@pytest.mark.parametrize("args", BAD_GRANTS.values(), ids=BAD_GRANTS)
def test_a_grant_that_does_not_read_is_not_applied(sale: Sale, args: tuple) -> None:
    before = sale.create(stock="A:3 U:-").snapshot()
    with pytest.raises(redis.ResponseError, match="CORRUPT"):
        sale.evaluate("grant", 0, args[0], "test", "", *args[1:])
    assert sale.snapshot() == before


@pytest.mark.parametrize("text", ["two\nlines", "a\0b", "tab\there", "\x7f"])
def test_text_that_is_no_single_line_is_neither_sent_nor_written(sale: Sale, text: str) -> None:
    before = sale.create().snapshot()
    calls = (
        lambda: sale.run(sale.gate.control(SALE, "pause", actor=text)),
        lambda: sale.run(sale.gate.grant(SALE, 2, [("A", 1, True)], actor=text)),
        lambda: sale.grant(2, ("A", 1, True), reason=text),
    )
    for call in calls:
        with pytest.raises(InvalidInput):
            call()
    for verb, args in (("control", ("pause", text)), ("grant", (2, "test", text, "A", 1, 1))):
        with pytest.raises(redis.ResponseError, match="CORRUPT"):
            sale.evaluate(verb, 0, *args)
    assert sale.snapshot() == before


# ── fences ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("fields", [("reason", ""), ()], ids=["empty", "none"])
def test_a_fence_without_a_reason_does_not_lift_the_one_there_is(sale: Sale, fields: tuple) -> None:
    sale.create().control("fence", reason="a test")
    before = sale.snapshot()
    with pytest.raises(redis.ResponseError, match="CORRUPT"):
        sale.evaluate("control", 0, "fence", "test", *fields)
    assert sale.snapshot() == before


def test_a_fence_repeated_changes_nothing_and_a_new_reason_is_kept(sale: Sale) -> None:
    sale.create()
    replies = [sale.control("fence", reason=reason).changed for reason in ("a", "a", "b")]
    assert replies == [True, False, True]
    assert sale.plain.hget(keys.sale(SALE), "fence") == "b"
    assert len(sale.events()) == 3


def test_what_the_ledger_left_of_a_deleted_sale_is_no_sale(sale: Sale) -> None:
    sale.plain.hset(keys.sale(SALE), mapping={"applied_epoch": 1, "applied_n": 1, "full": 0})
    before = sale.snapshot()
    for action, fields in (("fence", {"reason": "a"}), ("prove", {"last_id": "0-0"}), ("pause", {})):
        with pytest.raises(SaleFenced, match="lacks this sale's state"):
            sale.control(action, **fields)
    assert sale.snapshot() == before


# ── memory, and an outbox that goes on elsewhere ─────────────────────────────────────────────────────────────────────

READS = {"reservation", "availability"}
GIVE_BACK = {"confirm", "release", "expire", "settle", "discard"}
WRITES = CALLS.keys() - READS


@pytest.mark.parametrize("verb", sorted(WRITES - GIVE_BACK))
def test_out_of_memory_a_write_is_refused_whole(sale: Sale, verb: str) -> None:
    before = ready(sale, verb).snapshot()
    sale.plain.config_set("maxmemory", 1)
    try:
        with pytest.raises(GateUnavailable):
            CALLS[verb](sale)
        assert sale.snapshot() == before
    finally:
        sale.plain.config_set("maxmemory", 0)
    CALLS[verb](sale)


@pytest.mark.parametrize("verb", sorted(READS | GIVE_BACK))
def test_out_of_memory_holds_still_end_and_reads_are_answered(sale: Sale, verb: str) -> None:
    ready(sale, verb).plain.config_set("maxmemory", 1)
    events = len(sale.events())
    try:
        assert CALLS[verb](sale)
        assert len(sale.events()) == events + (verb in GIVE_BACK)
    finally:
        sale.plain.config_set("maxmemory", 0)


@pytest.mark.parametrize("verb", sorted(WRITES))
def test_an_outbox_of_a_later_epoch_refuses_the_first_write(sale: Sale, verb: str) -> None:
    ready(sale, verb).plain.xadd(keys.outbox(SALE), {"event": "?"}, id="9-0")
    refuses(sale, CALLS[verb], "equal or smaller")
