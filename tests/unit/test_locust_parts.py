"""The parts of the locust benchmark that need no locust: who comes when, and the verdict."""

import json
from itertools import pairwise, takewhile
from random import Random
from typing import Any

import pytest

from bench.arrivals import Kind, arrivals, kind
from bench.running import Unusable, find_target
from bench.verdict import Limits, Seen, judge, percentile, rounded, summary


def page(**counters: Any) -> list[dict[str, Any]]:
    sku = {"sku": "JACKET", "available": 0, "held": 2, "sold": 8, "granted": 10, "tracked": True} | counters
    return [{"skus": [sku], "checkpoint": None}]


def seen(**more: Any) -> Seen:
    found = Seen(scheduled=100, came=100, requests=100, told=10)
    found.latencies.update({10: 99, 500: 1})
    found.theirs["JACKET"], found.sold["JACKET"] = 10, 8
    for name, value in more.items():
        setattr(found, name, value)
    return found


def test_arrivals_come_at_the_rate_that_was_asked_for_whatever_else_happens() -> None:
    times = list(takewhile(lambda at: at < 100, arrivals(50, Random(1))))
    assert len(times) == pytest.approx(5000, rel=0.05)
    assert times == sorted(times)
    gaps = [after - before for before, after in pairwise(times)]
    assert max(gaps) > 4 / 50 and min(gaps) < 0.1 / 50  # they bunch


def test_several_streams_add_up_to_one_rate() -> None:
    streams = [takewhile(lambda at: at < 100, arrivals(50 / 4, Random(seed))) for seed in range(4)]
    assert sum(len(list(stream)) for stream in streams) == pytest.approx(5000, rel=0.05)


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        next(arrivals(rate, Random(1)))


def test_the_kinds_of_buyers_come_in_their_shares() -> None:
    luck = Random(1)
    drawn = [kind(luck, retries=0.2, bots=0.05) for _ in range(20_000)]
    assert drawn.count(Kind.RETRIES) / 20_000 == pytest.approx(0.2, abs=0.02)
    assert drawn.count(Kind.BOT) / 20_000 == pytest.approx(0.05, abs=0.01)


def test_a_sale_whose_books_fit_and_thresholds_kept_pass() -> None:
    verdict = judge(seen(), page(), Limits(p99_ms=10, errors=0))
    assert (verdict.code, verdict.wrongs, verdict.missed) == (0, [], [])
    assert "passed" in summary(seen(), verdict)


@pytest.mark.parametrize(
    "counters", [{"available": 1}, {"available": -1, "sold": 9}, {"held": 1}, {"granted": 9}], ids=str
)
def test_books_that_do_not_fit_are_exit_3(counters: dict[str, int]) -> None:
    verdict = judge(seen(), page(**counters), Limits())
    assert verdict.code == 3 and "JACKET" in verdict.wrongs[0]


def test_more_units_with_buyers_than_granted_is_exit_3_even_when_the_counters_fit() -> None:
    found = seen()
    found.theirs["JACKET"] = 11
    verdict = judge(found, page(), Limits())
    assert (verdict.code, verdict.wrongs) == (3, ["JACKET: oversold, 11 units are buyers' of 10 granted"])


def test_a_confirmed_sale_that_the_gate_forgot_is_exit_3() -> None:
    verdict = judge(seen(), page(sold=7, available=1), Limits())
    assert verdict.code == 3 and "8 units were confirmed" in verdict.wrongs[0]


def test_a_broken_promise_and_a_drift_are_exit_3() -> None:
    found = seen()
    found.broken["a key got two reservations"] += 1
    assert judge(found, page(), Limits()).wrongs == ["a key got two reservations: 1"]
    drifted = [page()[0] | {"checkpoint": {"result": "drift", "position": "1-5"}}]
    assert judge(seen(), drifted, Limits()).code == 3


def test_untracked_skus_are_not_limited() -> None:
    assert judge(seen(), page(tracked=False, available=None, granted=None), Limits()).code == 0


@pytest.mark.parametrize(
    ("limits", "said"),
    [(Limits(p99_ms=9), "p99 10 ms is over 9 ms"), (Limits(errors=0.005), "1.00% of requests answered 5xx")],
)
def test_a_violated_threshold_is_exit_1(limits: Limits, said: str) -> None:
    verdict = judge(seen(errors=1), page(), limits)
    assert verdict.code == 1 and verdict.missed[0].startswith(said)


def test_what_could_not_be_checked_is_exit_1() -> None:
    assert judge(seen(), None, Limits()).code == 1
    assert judge(seen(), page(), Limits(), missing=1).code == 1
    assert judge(seen(unread=1), page(), Limits()).code == 1
    assert judge(Seen(), page(), Limits()).code == 1
    assert "at its limit" in judge(seen(came=94), page(), Limits()).missed[0]


def test_oversold_is_said_even_when_a_threshold_was_violated_too() -> None:
    verdict = judge(seen(), page(granted=9), Limits(p99_ms=1))
    assert verdict.code == 3 and verdict.missed


def test_what_several_processes_saw_adds_up_through_a_message() -> None:
    total = Seen()
    for _ in range(2):
        total.add(json.loads(json.dumps(seen().plain())))
    assert (total.came, total.told, total.theirs["JACKET"]) == (200, 20, 20)
    assert tuple(percentile(total.latencies, share) for share in (0.5, 0.99, 1)) == (10, 10, 500)


@pytest.mark.parametrize(("ms", "kept"), [(0.4, 0), (42.3, 42), (184.0, 180), (1349.0, 1300)])
def test_latencies_keep_two_digits(ms: float, kept: int) -> None:
    assert rounded(ms) == kept


STACK = {"url": "http://127.0.0.1:8080", "shop_key": "s", "admin_key": "a"}


def test_the_running_stack_is_the_target_unless_another_is_named() -> None:
    assert find_target(None, {}, STACK) == ("http://127.0.0.1:8080", "s", "a")
    keys = {"GATEKEEPER_SHOP_KEY": "x", "GATEKEEPER_ADMIN_KEY": "y"}
    assert find_target("http://gate:1/", keys, STACK) == ("http://gate:1", "x", "y")


def test_the_stacks_keys_go_to_no_other_host() -> None:
    with pytest.raises(Unusable, match="GATEKEEPER_SHOP_KEY"):
        find_target("http://elsewhere", {}, STACK)


def test_without_a_gate_it_says_how_to_get_one() -> None:
    with pytest.raises(Unusable, match="gatekeeper up"):
        find_target(None, {}, None)
