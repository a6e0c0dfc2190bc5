"""How far the ledger is: only ever forward, and nothing that it lacks is trimmed."""

import pytest

from gatekeeper import keys
from gatekeeper.errors import SaleFenced
from gatekeeper.model import Position
from gatekeeper.outcomes import Outcome as O
from tests.lua.sale import SALE, Sale, purchase


def applied(sale: Sale, epoch: int, n: int, keep: int = 0, checkpoint: str = "") -> None:
    sale.run(sale.gate.applied(SALE, Position(epoch, n), keep=keep, checkpoint=checkpoint))


def known(sale: Sale) -> list[str | None]:
    return sale.plain.hmget(keys.sale(SALE), "applied_epoch", "applied_n", "full", "checkpoint")


def test_the_word_of_a_slower_worker_changes_nothing(sale: Sale) -> None:
    sale.create(stock="A:9", backlog_limit=4).buy()
    assert sale.buy(key="k2").outcome is O.BACKLOG_FULL
    applied(sale, 1, 3, checkpoint="equal 1-3 5 1")
    assert known(sale) == ["1", "3", "0", "equal 1-3 5 1"]
    assert sale.buy(key="k2").outcome is O.ADMITTED
    before = sale.snapshot()
    applied(sale, 1, 2)
    assert sale.snapshot() == before
    applied(sale, 1, 4)
    assert known(sale) == ["1", "4", "0", "equal 1-3 5 1"]


def test_the_same_word_again_opens_admission_again(sale: Sale) -> None:
    sale.create(stock="A:9", backlog_limit=4).buy()
    applied(sale, 1, 3)
    sale.plain.hset(keys.sale(SALE), "full", "1")
    applied(sale, 1, 3)
    assert sale.buy(key="k2").outcome is O.ADMITTED


def test_what_is_not_applied_is_never_trimmed_and_as_much_stays_behind_it_as_was_asked(sale: Sale) -> None:
    sale.create(stock="A:2000", backlog_limit=10_000)
    sale.admit(*(purchase(buyer=f"b{i}") for i in range(900)))
    applied(sale, 1, 600, keep=50)
    ids = [id for id, _ in sale.plain.xrange(keys.outbox(SALE))]
    assert 601 - 50 - 100 <= 1 + int(ids[0].split("-")[1]) <= 601 - 50 + 1  # Redis trims whole nodes of 100
    assert ids[-1] == "1-902"
    applied(sale, 1, 902, keep=0)
    assert sale.plain.xlen(keys.outbox(SALE)) < 100
    assert sale.buy(key="last").outcome is O.ADMITTED


def test_a_sale_that_was_deleted_meanwhile_does_not_come_back(sale: Sale) -> None:
    applied(sale, 1, 3)
    assert sale.snapshot() == {keys.CATALOGUE: sale.plain.smembers(keys.CATALOGUE)}


def test_a_fenced_sale_is_told_too_and_damage_is_not_overwritten(sale: Sale) -> None:
    sale.create().control("fence", reason="a test")
    applied(sale, 1, 1)
    assert known(sale)[:2] == ["1", "1"]
    sale.plain.hset(keys.sale(SALE), "applied_n", "?")
    before = sale.snapshot()
    with pytest.raises(SaleFenced, match="CORRUPT applied_n"):
        applied(sale, 1, 2)
    assert sale.snapshot() == before
