"""checkpoint, reservation, availability: what a reader is told is what is there, and reading changes nothing."""

from gatekeeper import keys
from gatekeeper.model import Counters, Position, SaleView
from tests.lua.sale import SALE, Sale


def test_a_checkpoint_carries_redis_own_counters_and_changes_nothing_else(sale: Sale) -> None:
    sale.create(stock="A:3 B:1 U:-").buy("A:2 U:4")
    before = sale.snapshot()
    assert sale.run(sale.gate.checkpoint(SALE, ["A", "U", "lost"])) == Position(1, 4)
    type_, _, *rest = sale.events()[-1].split("\n")
    assert [type_, *rest] == ["checkpoint", "", "A 1 2 0 3 U 0 4 0 0 lost 0 0 0 0", ""]
    after = sale.snapshot()
    assert after.pop(keys.outbox(SALE))[:-1] == before.pop(keys.outbox(SALE))
    assert after == before


def test_a_reservation_reads_as_it_was_answered(sale: Sale) -> None:
    made = sale.create().buy("A:2").reservation
    before = sale.snapshot()
    assert made and sale.run(sale.gate.reservation(SALE, made.id)) == made
    assert sale.run(sale.gate.reservation(SALE, "0" * 32)) is None
    assert sale.snapshot() == before


def test_a_sale_reads_with_the_skus_that_were_named(sale: Sale) -> None:
    sale.create(stock="A:3 B:1", opens_at=1, per_buyer=2).buy("A:2")
    view = sale.run(sale.gate.availability(SALE, skus=["A"]))
    assert isinstance(view, SaleView)
    assert view.skus == {"A": Counters(1, 2, 0, 3)}
    assert (view.epoch, view.state, view.opens_at_ms, view.closes_at_ms) == (1, "open", 1, 0)
    assert (view.per_buyer, view.hold_ms, view.sku_count, view.next, view.pending) == (2, 60_000, 2, "", 4)
    assert sale.run(sale.gate.availability(SALE, skus=["A", "Y", "Z"])) == ("Y", "Z")


def test_pages_name_every_sku_once_in_order(sale: Sale) -> None:
    names = [f"S{i}" for i in range(7)]
    sale.create(stock=" ".join(f"{name}:1" for name in reversed(names)))
    found, after = [], ""
    while True:
        view = sale.run(sale.gate.availability(SALE, after=after, limit=3))
        assert isinstance(view, SaleView)
        found.append(list(view.skus))
        if not (after := view.next):
            break
    assert found == [names[:3], names[3:6], names[6:]]


def test_pending_counts_what_the_ledger_has_not_applied(sale: Sale) -> None:
    sale.create()
    sale.run(sale.gate.applied(SALE, Position(1, 1), keep=10))
    view = sale.run(sale.gate.availability(SALE))
    assert isinstance(view, SaleView) and view.pending == 1
