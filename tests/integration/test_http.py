"""The HTTP contract over real sockets: every code that can occur, and what each answer carries."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest

from gatekeeper.model import Position
from tests.integration.door import TOKEN_SECRET, Answer, FrontDoor
from tests.lua.sale import SALE, Sale

RESERVATIONS = f"/v1/sales/{SALE}/reservations"


@pytest.fixture(scope="module")
def served(valkey_url: str) -> Iterator[FrontDoor]:
    """One front door for all tests here; Redis is emptied under it."""
    door = FrontDoor(valkey_url).wait("/livez")
    yield door
    assert door.stop() == 0


@pytest.fixture
def sale(redis_url: str) -> Iterator[Sale]:
    """A sale still to be made."""
    sale = Sale(redis_url)
    yield sale
    sale.close()


@pytest.fixture
def door(served: FrontDoor, sale: Sale) -> FrontDoor:
    """The front door over an empty Redis."""
    return served


def token(sub: str = "bob", aud: str = SALE, secret: str = TOKEN_SECRET, **claims: Any) -> str:
    return jwt.encode({"sub": sub, "aud": aud, "exp": time.time() + 60} | claims, secret, algorithm="HS256")


def assert_problem(answer: Answer, status: int, code: str) -> None:
    """Status, media type and members of RFC 9457, and the request's id in header and body."""
    assert (answer.status, answer.code) == (status, code), answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "code", "request_id"} <= answer.body.keys()
    assert answer.body["status"] == status and answer.body["request_id"] == answer.headers["x-request-id"]


def test_a_purchase_is_created_and_found_again_in_every_way(door: FrontDoor, sale: Sale) -> None:
    sale.create(stock="A:3 B:2")
    made = door.buy(SALE, ("B", 1), ("A", 2), key="order-1")
    assert made.status == 201
    body = made.body
    assert body.keys() == {
        "id", "sale", "buyer", "items", "state", "late", "idempotency_key", "created_at", "expires_at",
    }  # fmt: skip
    assert body["items"] == [{"sku": "A", "quantity": 2}, {"sku": "B", "quantity": 1}]
    assert (body["sale"], body["buyer"], body["state"], body["late"]) == (SALE, "bob", "held", False)
    created, expires = (datetime.fromisoformat(body[name]) for name in ("created_at", "expires_at"))
    assert (expires - created).total_seconds() == 60 and created.tzinfo == UTC
    assert made.headers["location"] == f"{RESERVATIONS}/{body['id']}"
    assert made.headers["idempotency-key"] == body["idempotency_key"] == "order-1"
    before = sale.snapshot()
    again = door.buy(SALE, ("A", 2), ("B", 1), key="order-1")
    assert (again.status, again.body, again.headers["idempotent-replayed"]) == (200, body, "true")
    assert door.get(made.headers["location"]).body == body
    assert door.get(f"{RESERVATIONS}?buyer=bob", Idempotency_Key="order-1").body == body
    assert sale.snapshot() == before


def test_without_a_key_each_purchase_gets_one_of_its_own(door: FrontDoor, sale: Sale) -> None:
    sale.create()
    one, other = door.buy(), door.buy()
    assert {one.status, other.status} == {201}
    assert one.body["idempotency_key"] != other.body["idempotency_key"]
    assert one.headers["idempotency-key"] == one.body["idempotency_key"]


def test_sold_out_tells_what_is_available_and_held(door: FrontDoor, sale: Sale) -> None:
    sale.create(stock="A:3").buy("A:2", key="k0")
    refused = door.buy(SALE, ("A", 2))
    assert_problem(refused, 409, "sold_out")
    assert refused.body["items"] == [{"sku": "A", "requested": 2, "available": 1, "held": 2}]


REFUSALS = {
    "draft": ({"state": "draft"}, 409, "sale_not_open"),
    "paused": ({"state": "paused"}, 409, "sale_paused"),
    "closed": ({"state": "closed"}, 409, "sale_closed"),
    "limit": ({"per_buyer": 0, "stock": "Z:1"}, 404, "unknown_sku"),
}


@pytest.mark.parametrize(("setting", "status", "code"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_names_its_code_and_changes_nothing(
    door: FrontDoor, sale: Sale, setting: dict[str, Any], status: int, code: str
) -> None:
    before = sale.create(**setting).snapshot()
    assert_problem(door.buy(), status, code)
    assert sale.snapshot() == before


def test_a_sale_that_opens_later_says_when(door: FrontDoor, sale: Sale) -> None:
    opens = int(time.time()) + 90
    sale.create(opens_at=opens * 1000)
    refused = door.buy()
    assert_problem(refused, 409, "sale_not_open")
    assert datetime.fromisoformat(refused.body["opens_at"]).timestamp() == opens
    assert 80 <= int(refused.headers["retry-after"]) <= 91


def test_limits_pauses_and_mismatches_have_codes_of_their_own(door: FrontDoor, sale: Sale) -> None:
    sale.create(stock="A:9 B:9", per_buyer=2)
    assert door.buy(key="k1").status == 201
    limit = door.buy(SALE, ("A", 2), key="k2")
    assert_problem(limit, 409, "buyer_limit")
    assert limit.body["limit"] == 2
    assert_problem(door.buy(SALE, ("A", 2), key="k1"), 422, "idempotency_mismatch")
    sale.control("pause_sku", sku="A")
    paused = door.buy(buyer="eve")
    assert_problem(paused, 409, "sku_paused")
    assert paused.body["skus"] == ["A"] and "retry-after" in paused.headers


def test_what_is_not_there_is_404_each_with_its_code(door: FrontDoor, sale: Sale) -> None:
    sale.create()
    assert_problem(door.buy("gloves"), 404, "unknown_sale")
    assert_problem(door.buy("No Such Name".replace(" ", "%20")), 404, "unknown_sale")
    assert_problem(door.get(f"{RESERVATIONS}/{'0' * 32}"), 404, "unknown_reservation")
    assert_problem(door.get(f"{RESERVATIONS}/nonsense"), 404, "unknown_reservation")
    assert_problem(door.get(f"{RESERVATIONS}?buyer=bob", Idempotency_Key="never"), 404, "unknown_reservation")
    assert_problem(door.get(f"/v1/sales/{SALE}?sku=A&sku=Z"), 404, "unknown_sku")
    assert_problem(door.get("/v1/nowhere"), 404, "not_found")


def test_an_unproven_sale_is_503_for_everyone_until_it_is_proven(redis_url: str, sale: Sale) -> None:
    door = FrontDoor(redis_url)  # its own: a door never goes back behind an epoch that it has seen
    sale.create()
    door.wait()
    made = door.buy(key="k1")
    sale.control("fence", reason="a test")
    for answer in (door.buy(), door.get(made.headers["location"]), door.get(f"/v1/sales/{SALE}")):
        assert_problem(answer, 503, "sale_fenced")
        assert answer.headers["retry-after"] == "1"
    assert "idempotency-key" in door.buy().headers  # the key finds out later
    sale.control("prove", last_id="1-3", fence="a test")
    assert door.buy(key="k1").body == made.body
    assert door.stop() == 0


def test_a_lost_catalogue_never_turns_a_sale_into_404(door: FrontDoor, sale: Sale) -> None:
    sale.create().plain.flushdb()
    assert_problem(door.buy(), 503, "sale_fenced")


def test_a_sale_reads_with_its_state_window_and_pages(door: FrontDoor, sale: Sale) -> None:
    sale.create(stock="A:3 B:2 U:-", per_buyer=4).buy("A:1 U:2")
    page = door.get(f"/v1/sales/{SALE}?limit=2").body
    assert (page["sale"], page["state"], page["opens_at"], page["per_buyer"]) == (SALE, "open", None, 4)
    assert page["skus"][0] == {
        "sku": "A", "available": 2, "held": 1, "sold": 0, "granted": 3, "tracked": True, "paused": False,
    }  # fmt: skip
    assert page["next"] == "B"
    rest = door.get(f"/v1/sales/{SALE}?limit=2&after=B").body
    assert [(s["sku"], s["tracked"], s["held"]) for s in rest["skus"]] == [("U", False, 2)]


def test_an_admin_moves_a_sale_and_a_shop_may_not(door: FrontDoor, sale: Sale) -> None:
    sale.create(state="draft")
    admin = f"/v1/admin/sales/{SALE}"
    assert_problem(door.post(f"{admin}/open"), 403, "forbidden")
    assert_problem(door.post(f"{admin}/pause", who="admin"), 409, "sale_not_open")
    moves = [door.post(f"{admin}/{action}", who="admin") for action in ("open", "open", "pause", "resume", "close")]
    assert [(m.status, m.body["state"], m.body["changed"]) for m in moves] == [
        (200, "open", True), (200, "open", False), (200, "paused", True), (200, "open", True), (200, "closed", True),
    ]  # fmt: skip
    assert_problem(door.post(f"{admin}/open", who="admin"), 409, "sale_closed")
    assert door.get(f"{admin}/status", who="admin").body["state"] == "closed"
    assert sale.events()[-1].split("\n")[3] == "http:admin"


def test_who_asks_must_be_known(door: FrontDoor, sale: Sale) -> None:
    sale.create()
    for who in ("nobody", "", "x" * 5000):
        answer = door.buy(who=who)
        assert_problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    assert_problem(door.send("POST", RESERVATIONS, b"{}"), 401, "unauthorized")


def test_a_buyers_token_buys_and_reads_for_its_own_buyer_only(door: FrontDoor, sale: Sale) -> None:
    sale.create(stock="A:9")
    assert_problem(door.buy(who=token()), 400, "idempotency_key_required")
    made = door.buy(who=token(), key="k1")
    assert made.status == 201
    assert_problem(door.buy(who=token("eve"), key="k1"), 403, "forbidden")
    assert door.get(made.headers["location"], who=token()).body == made.body
    assert_problem(door.get(made.headers["location"], who=token("eve")), 404, "unknown_reservation")
    assert_problem(door.post(f"/v1/admin/sales/{SALE}/close", who=token()), 403, "forbidden")


@pytest.mark.parametrize(
    "bad",
    [
        lambda: token(aud="gloves"),
        lambda: token(exp=time.time() - 1),
        lambda: token(secret="another secret of at least 32 bytes!"),
        lambda: jwt.encode({"sub": "bob", "aud": SALE}, TOKEN_SECRET, algorithm="HS256"),
        lambda: jwt.encode({"aud": SALE, "exp": time.time() + 60}, TOKEN_SECRET, algorithm="HS256"),
        lambda: jwt.encode({"sub": "bob", "aud": SALE, "exp": time.time() + 60}, None, algorithm="none"),
    ],
    ids=["another sale", "expired", "another key", "no expiry", "no buyer", "unsigned"],
)
def test_a_token_that_is_no_good_is_401(door: FrontDoor, sale: Sale, bad: Any) -> None:
    sale.create()
    assert_problem(door.buy(who=bad(), key="k1"), 401, "unauthorized")


def test_requests_that_are_too_large_or_no_json_are_refused_before_they_are_read(door: FrontDoor, sale: Sale) -> None:
    sale.create()
    assert_problem(door.post(RESERVATIONS, b"x" * 16_385), 413, "payload_too_large")
    assert_problem(door.post(RESERVATIONS, b"{}", Content_Type="text/plain"), 415, "unsupported_media_type")
    assert_problem(door.post(RESERVATIONS, b"{"), 400, "invalid_request")
    wrong = door.send("DELETE", RESERVATIONS, Authorization="Bearer shop")
    assert_problem(wrong, 405, "method_not_allowed")
    assert "POST" in wrong.headers["allow"] and "GET" in wrong.headers["allow"]


def test_probes_metrics_and_the_contract_need_no_key(door: FrontDoor, sale: Sale) -> None:
    sale.create()
    door.buy()
    assert door.send("GET", "/livez").status == door.send("GET", "/readyz").status == 200
    metrics = door.send("GET", "/metrics").body
    assert 'gatekeeper_purchases_total{outcome="admitted"}' in metrics
    spec = door.send("GET", "/openapi.json").body
    paths = {f"{method} {path}" for path, item in spec["paths"].items() for method in item if method in ("get", "post")}
    assert {
        "post /v1/sales/{sale}/reservations",
        "get /v1/sales/{sale}/reservations",
        "get /v1/sales/{sale}/reservations/{id}",
        "get /v1/sales/{sale}",
        "post /v1/admin/sales/{sale}/open",
        "get /v1/admin/sales/{sale}/status",
    } <= paths
    assert "/v1/sales/{sale}/reservations" in door.send("GET", "/docs").body


def test_a_clients_own_request_id_comes_back_if_it_is_sane(door: FrontDoor) -> None:
    assert door.send("GET", "/v1/x", X_Request_Id="trace-7").headers["x-request-id"] == "trace-7"
    assert door.send("GET", "/v1/x", X_Request_Id="a b").headers["x-request-id"] != "a b"


def test_a_flood_without_keys_is_answered_by_the_door_for_a_moment_and_a_key_always_asks(
    door: FrontDoor, sale: Sale
) -> None:
    sale.create(stock="A:1")
    mine = door.buy(SALE, buyer="bob", key="mine")
    assert mine.status == 201

    def asked() -> int:
        return sale.plain.info("commandstats")["cmdstat_evalsha"]["calls"]

    started, calls, told = time.monotonic(), asked(), 0
    while time.monotonic() - started < 0.5:
        answer = door.buy(SALE, buyer="eve")
        assert (answer.code, answer.body["items"][0]["sku"]) == ("sold_out", "A")
        assert "idempotency-key" in answer.headers
        told += 1
    assert asked() - calls <= 0.5 / 0.04 + 2 < told
    calls = asked()
    assert door.buy(SALE, buyer="bob", key="mine").body == mine.body  # a winner's retry
    assert door.buy(SALE, buyer="eve", key="k").code == "sold_out"
    assert asked() - calls == 2
    sale.grant(2, ("A", 1, True))
    time.sleep(0.05)
    assert door.buy(SALE, buyer="eve").status == 201


def test_the_status_shows_the_newest_comparison_with_the_ledger_and_the_next_deadline(
    door: FrontDoor, sale: Sale
) -> None:
    sale.create(stock="A:2")
    path = f"/v1/admin/sales/{SALE}/status"
    before = door.get(path, who="admin").body
    assert (before["checkpoint"], before["next_deadline"]) == (None, None)
    made = door.buy(SALE)
    sale.run(sale.gate.applied(SALE, Position(1, 3), keep=10, checkpoint="equal 1-3 1795265367065 7"))
    after = door.get(path, who="admin").body
    assert after["checkpoint"] == {
        "result": "equal", "position": "1-3", "at": "2026-11-21T12:49:27.065Z", "skus": 7,
    }  # fmt: skip
    assert (after["next_deadline"], after["pending"]) == (made.body["expires_at"], 0)
