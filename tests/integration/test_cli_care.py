"""The runbook's commands as an operator types them: what they say, and what they leave on both sides."""

import json

import pytest

from gatekeeper import keys
from tests.integration.shell import Shell
from tests.lua.sale import SALE, purchase
from workers.expire import sweep

MINE = purchase().id
STOCK = "sku,quantity\nA,3\n"


@pytest.fixture
def open_sale(shell: Shell) -> Shell:
    """bob holds 1 of 3 A."""
    shell.done("sale", "create", SALE, "--per-buyer", "2")
    shell.done("stock", "load", SALE, "-", stdin=STOCK)
    shell.done("sale", "open", SALE)
    shell.sale.buy()
    shell.drain()
    return shell


def test_a_hold_is_released_by_hand_and_only_once(open_sale: Shell) -> None:
    shell = open_sale
    command = ("reservations", "release", SALE, MINE, "--reason", "bob called")
    assert "is released" in shell.done(*command).stdout
    assert "it was so already" in shell.done(*command).stdout
    shell.drain()
    assert shell.rows("SELECT state FROM reservations") == [("released",)]
    ((actor, reason),) = shell.rows("SELECT actor, reason FROM movements WHERE reason LIKE 'release%'")
    assert actor.startswith("cli:") and reason == "release: bob called"
    assert "no reservation" in shell.refused("reservations", "release", SALE, "f" * 32, "--reason", "x")
    shell.refused("reservations", "release", SALE, "nonsense", "--reason", "x", code=2)


def test_a_sale_is_undone_its_refund_listed_and_settled(open_sale: Shell) -> None:
    shell = open_sale
    shell.sale.confirm("pay-1")
    refused = shell.refused("reservations", "release", SALE, MINE, "--reason", "bob called")
    assert "--reason refund or --reason rejected" in refused
    assert "refunds list" in shell.done("reservations", "release", SALE, MINE, "--reason", "refund").stdout
    shell.drain()
    (due,) = shell.json("refunds", "list", SALE)
    assert (due["reservation"], due["buyer"], due["payment"], due["state"]) == (MINE, "bob", "pay-1", "refund_due")
    assert shell.json("sale", "status", SALE)["ledger"]["refunds_due"] == 1
    command = ("refunds", "settle", SALE, MINE, "--refund", "back-1")
    assert shell.json(*command)["changed"] and not shell.json(*command)["changed"]
    shell.drain()
    assert "no payment of jackets is due back" in shell.done("refunds", "list", SALE).stdout
    (row,) = shell.json("refunds", "list", SALE, "--all")
    assert (row["state"], row["refund"]) == ("refunded", "back-1")
    assert "another refund" in shell.refused("refunds", "settle", SALE, MINE, "--refund", "back-2")
    assert "there is no sale gloves" in shell.refused("refunds", "list", "gloves")


def test_stale_and_old_reservations_are_found(open_sale: Shell) -> None:
    shell = open_sale
    assert shell.json("reservations", "list", SALE, "--stale") == []
    shell.rows("UPDATE reservations SET expires_at = now() - interval '1 s' RETURNING 1")
    assert [row["id"] for row in shell.json("reservations", "list", SALE, "--stale")] == [MINE]
    assert shell.json("reservations", "list", SALE, "--stale", "--older-than", "15m") == []
    shell.rows("UPDATE reservations SET created_at = now() - interval '20 min' RETURNING 1")
    assert len(shell.json("reservations", "list", SALE, "--stale", "--older-than", "15m")) == 1
    assert "such as 90s, 15m" in shell.refused("reservations", "list", SALE, "--older-than", "15 minutes", code=2)


def test_status_shows_what_one_looks_for_when_stock_does_not_come_back(open_sale: Shell) -> None:
    shell = open_sale
    status = shell.json("sale", "status", SALE)
    assert status["expiry_heartbeat"] is None and status["overdue_seconds"] == 0.0 and status["next_deadline"]
    assert "never looked" in shell.done("sale", "status", SALE).stdout
    shell.sale.overdue()
    late = shell.json("sale", "status", SALE)
    assert late["overdue_seconds"] > 0
    assert "overdue by" in shell.done("sale", "status", SALE).stdout
    shell.sale.run(sweep(shell.sale.gate, SALE))
    shell.sale.run(shell.sale.gate.beat("expiry", shell.sale.expire().now_ms))
    assert shell.json("sale", "status", SALE)["pending"] == 1
    shell.done("reconcile", SALE)
    well = shell.json("sale", "status", SALE)
    assert (well["pending"], well["next_deadline"], well["checkpoint"]["result"]) == (0, None, "equal")
    text = shell.done("sale", "status", SALE).stdout
    assert "no holds" in text and "equal at" in text and "quarantine 0" in text and "refunds due 0" in text


def test_quarantine_is_listed_retried_and_discarded(open_sale: Shell) -> None:
    shell = open_sale
    shell.ledger.execute("UPDATE reservations SET state = 'expired'")
    shell.sale.confirm("pay-1")
    shell.drain()
    (row,) = shell.json("quarantine", "list", SALE)
    assert (row["reservation"], row["skus"]) == (MINE, ["A"])
    assert shell.json("sale", "status", SALE)["skus"][0]["unproven"]
    assert "paused unproven" in shell.done("sale", "status", SALE).stdout
    result = shell.run("reconcile", SALE)
    assert result.exit_code == 3 and "A: unproven" in result.stdout
    assert shell.json("quarantine", "retry", SALE) == {"sale": SALE, "applied": 0, "left": 1, "paused_skus": []}
    event = row["position"]
    assert "asks for a confirmation" in shell.refused("quarantine", "discard", SALE, event, "--reason", "x")
    shell.ledger.execute("UPDATE reservations SET state = 'held'")
    done = shell.json("quarantine", "discard", SALE, event, "--reason", "wrong", "--yes")
    assert (done["reservation"], done["state"], done["refunds_due"]) == (MINE, "released", 1)
    assert done["paused_skus"] == ["A"]
    assert shell.json("quarantine", "list", SALE) == []
    assert "no event" in shell.refused("quarantine", "discard", SALE, event, "--reason", "x", "--yes")
    shell.refused("quarantine", "discard", SALE, "first", "--reason", "x", "--yes", code=2)
    shell.done("sku", "resume", SALE, "A")
    assert shell.json("reconcile", SALE)["drift"] == []


def test_a_repair_is_confirmed_reported_and_leaves_no_drift(open_sale: Shell) -> None:
    shell = open_sale
    shell.sale.plain.hset(keys.stock(SALE), "A", "1 2 0 3 1 0")
    assert shell.run("reconcile", SALE).exit_code == 3
    assert "asks for a confirmation" in shell.refused("reconcile", SALE, "--repair")
    done = shell.json("reconcile", SALE, "--repair", "--yes")
    assert (done["skus"], done["reservations"], done["epoch"]) == (["A"], 1, 2)
    assert shell.json("reconcile", SALE)["drift"] == []
    assert shell.sale.stock()["A"].startswith("2 1 0 3 1")
    assert "written anew from the ledger" in shell.done("reconcile", SALE, "--repair", "--yes").stdout


def test_an_archive_says_what_is_open_and_then_what_it_freed(open_sale: Shell) -> None:
    shell = open_sale
    assert "asks for a confirmation" in shell.refused("sale", "archive", SALE)
    assert "jackets is open" in shell.refused("sale", "archive", SALE, "--yes")
    shell.done("sale", "close", SALE, "--yes")
    assert "has holds" in shell.refused("sale", "archive", SALE, "--yes")
    shell.sale.confirm("pay-1")
    done = shell.json("sale", "archive", SALE, "--yes")
    assert (done["state"], done["freed"]["reservations"], done["freed"]["skus"]) == ("archived", 1, 1)
    assert "archived" in shell.done("sale", "status", SALE).stdout
    assert json.loads(shell.done("sale", "list", "--json").stdout)[0]["state"] == "archived"
    assert [row["payment"] for row in shell.json("reservations", "list", SALE)] == ["pay-1"]
    assert "is archived" in shell.refused("sale", "open", SALE)
    assert "is, or was" in shell.refused("sale", "create", SALE)
