"""Confirm, release and settle over real sockets: every answer, who may ask, and what a repeated call does."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.door import Answer, FrontDoor
from tests.integration.test_http import assert_problem, token
from tests.lua.sale import SALE, Sale


@pytest.fixture(scope="module")
def door(valkey_url: str) -> Iterator[FrontDoor]:
    door = FrontDoor(valkey_url).wait("/livez")
    yield door
    assert door.stop() == 0


@pytest.fixture
def sale(redis_url: str) -> Iterator[Sale]:
    sale = Sale(redis_url)
    sale.create(stock="A:3")
    yield sale
    sale.close()


class Hold:
    """bob's reservation of 2 of 3 A."""

    def __init__(self, door: FrontDoor) -> None:
        made = door.buy(SALE, ("A", 2), key="k1")
        assert made.status == 201
        self._door, self.path = door, made.headers["location"]

    def send(self, verb: str, body: Any, who: str = "shop") -> Answer:
        return self._door.post(f"{self.path}/{verb}", body, who=who)

    def confirm(self, payment: str = "p1", **more: str) -> Answer:
        return self.send("confirm", {"payment": payment}, **more)

    def release(self, reason: str = "cancelled", **more: str) -> Answer:
        return self.send("release", {"reason": reason}, **more)

    def settle(self, refund: str = "r1", **more: str) -> Answer:
        return self.send("settle", {"refund": refund, **more})


@pytest.fixture
def hold(door: FrontDoor, sale: Sale) -> Hold:
    return Hold(door)


def replayed(answer: Answer) -> bool:
    return answer.headers.get("idempotent-replayed") == "true"


def test_a_hold_is_confirmed_and_confirmed_again(hold: Hold) -> None:
    first, again = hold.confirm(), hold.confirm()
    assert (first.status, replayed(first)) == (200, False)
    assert (first.body["state"], first.body["late"], first.body["payment"]) == ("sold", False, "p1")
    assert (again.status, again.body, replayed(again)) == (200, first.body, True)


def test_another_payment_is_refused_and_due_back(hold: Hold) -> None:
    hold.confirm()
    answer = hold.confirm("p2")
    assert_problem(answer, 409, "payment_mismatch")
    assert answer.body["refund_due"] == "p2" and not replayed(answer)
    assert answer.body["reservation"]["refunds"] == [{"payment": "p2", "state": "refund_due"}]
    assert replayed(hold.confirm("p2"))


def test_a_hold_is_released_once_and_its_payment_is_due_back(hold: Hold) -> None:
    first, again = hold.release(), hold.release()
    assert (first.status, first.body["state"], replayed(first)) == (200, "released", False)
    assert (again.status, again.body, replayed(again)) == (200, first.body, True)
    late = hold.confirm()
    assert_problem(late, 409, "not_held")
    assert late.body["refund_due"] == "p1"


def test_a_late_payment_without_units_is_due_back_then_settled(hold: Hold, door: FrontDoor, sale: Sale) -> None:
    sale.overdue()
    sale.expire()
    assert door.buy(SALE, ("A", 3), buyer="eve").status == 201
    answer = hold.confirm()
    assert_problem(answer, 409, "hold_expired")
    assert answer.body["refund_due"] == "p1"
    settled, again = hold.settle(), hold.settle()
    assert (settled.status, replayed(settled), replayed(again)) == (200, False, True)
    assert settled.body["refunds"] == [{"payment": "p1", "state": "refunded", "refund": "r1"}]
    assert_problem(hold.settle("r2"), 409, "refund_mismatch")
    after = hold.confirm()
    assert_problem(after, 409, "hold_expired")
    assert "refund_due" not in after.body and replayed(after)
    assert_problem(hold.release(), 409, "hold_expired")


def test_a_sold_unit_comes_back_by_refund_only(hold: Hold, sale: Sale) -> None:
    hold.confirm()
    assert_problem(hold.release("cancelled"), 409, "not_held")
    assert hold.release("refund").body["refunds"] == [{"payment": "p1", "state": "refund_due"}]
    assert sale.stock() == {"A": "3 0 0 3 1 0"}


def test_of_several_payments_one_is_named(hold: Hold) -> None:
    hold.confirm()
    for payment in ("p2", "p3"):
        hold.confirm(payment)
    assert_problem(hold.settle(), 409, "payment_ambiguous")
    assert hold.settle(payment="p3").body["refunds"][1]["state"] == "refunded"
    assert_problem(hold.settle("r9", payment="p1"), 409, "nothing_due")


def test_a_buyer_may_release_his_own_hold_and_nothing_else(hold: Hold, sale: Sale) -> None:
    before = sale.snapshot()
    assert_problem(hold.confirm(who=token()), 403, "forbidden")
    assert_problem(hold.send("settle", {"refund": "r"}, who=token()), 403, "forbidden")
    assert_problem(hold.release(who=token(sub="eve")), 404, "unknown_reservation")
    assert sale.snapshot() == before
    assert hold.release(who=token()).body["state"] == "released"
    assert sale.events()[-1].split("\n")[3] == "http:bob"


def test_a_buyer_cannot_undo_a_sale(hold: Hold) -> None:
    hold.confirm()
    assert_problem(hold.release("refund", who=token()), 409, "not_held")


FLAWS: list[tuple[str, Any, list[str]]] = [
    ("confirm", {}, ["/payment"]), ("confirm", {"payment": 7}, ["/payment"]), ("confirm", [], ["", "/payment"]),
    ("confirm", {"payment": " "}, ["/payment"]), ("confirm", {"payment": "p", "amount": 1}, ["/amount"]),
    ("release", {"reason": "a\nb"}, ["/reason"]), ("release", {"reason": "x" * 129}, ["/reason"]),
    ("settle", {"payment": "p"}, ["/refund"]), ("settle", {"refund": "r", "payment": ""}, ["/payment"]),
    ("confirm", b'{"payment":"p","payment":"q"}', ["/payment"]), ("confirm", b"{", [""]),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "body", "pointers"), FLAWS, ids=str)
def test_what_is_malformed_is_named_and_changes_nothing(
    hold: Hold, sale: Sale, verb: str, body: Any, pointers: list[str]
) -> None:
    before = sale.snapshot()
    answer = hold.send(verb, body)
    assert_problem(answer, 400, "invalid_request")
    assert {error["pointer"] for error in answer.body["errors"]} <= set(pointers)
    assert sale.snapshot() == before


def test_other_media_are_refused_and_other_ids_unknown(hold: Hold, door: FrontDoor) -> None:
    answer = door.post(f"{hold.path}/confirm", b'{"payment":"p"}', Content_Type="text/plain")
    assert_problem(answer, 415, "unsupported_media_type")
    for id in ("f" * 32, "nothing"):
        path = f"/v1/sales/{SALE}/reservations/{id}/confirm"
        assert_problem(door.post(path, {"payment": "p"}), 404, "unknown_reservation")
    assert_problem(door.get(f"{hold.path}/confirm"), 405, "method_not_allowed")


def test_replays_are_counted(hold: Hold, door: FrontDoor) -> None:
    def count() -> float:
        lines = door.send("GET", "/metrics").body.splitlines()
        found = [
            line for line in lines if line.startswith('gatekeeper_endings_total{outcome="replayed",verb="confirm"}')
        ]
        return float(found[0].split()[-1]) if found else 0.0

    hold.confirm()
    before = count()
    hold.confirm()
    assert count() == before + 1
