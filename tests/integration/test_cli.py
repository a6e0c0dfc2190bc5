"""Every command as a merchant or an operator types it: stdout, stderr, exit code, and what became of both sides."""

import asyncio
import json
import time
from pathlib import Path

from gatekeeper.ledger import stock as ledger_stock
from gatekeeper.model import Purchase
from tests.integration.shell import Shell
from tests.lua.sale import SALE

STOCK = "sku,quantity,tracked\nA,3,yes\nB,1,yes\nU,,no\n"


def test_a_sale_from_draft_to_closed(shell: Shell) -> None:
    assert "draft" in shell.done("sale", "create", SALE, "--per-buyer", "2").stdout
    assert shell.json("stock", "load", SALE, "-", stdin=STOCK)["new"] == 3
    states = [shell.json("sale", action, SALE)["state"] for action in ("open", "pause", "resume")]
    assert states == ["open", "paused", "open"]
    assert shell.json("sale", "open", SALE) == {"sale": SALE, "state": "open", "changed": False}
    assert "pass --yes" in shell.refused("sale", "close", SALE)
    assert shell.json("sale", "close", SALE, "--yes")["state"] == "closed"
    assert "for good" in shell.refused("sale", "open", SALE)
    shell.drain()
    assert shell.rows("SELECT state, per_buyer FROM sales") == [("closed", 2)]
    audit = [action for (action,) in shell.rows("SELECT action FROM audit ORDER BY id")]
    assert audit == ["create", "create", "open", "pause", "resume", "close"]


def test_a_window_needs_an_offset_and_is_echoed_in_three_ways(shell: Shell) -> None:
    assert "with an offset" in shell.refused("sale", "create", SALE, "--opens-at", "2030-01-01T10:00:00", code=2)
    backwards = ("--opens-at", "2030-01-02T10:00Z", "--closes-at", "2030-01-01T10:00Z")
    assert "closes_at: expected a time after opens_at" in shell.refused("sale", "create", SALE, *backwards)
    said = shell.done("sale", "create", SALE, "--opens-at", "2030-01-01T10:00:00+01:00").stdout
    assert "2030-01-01T09:00:00Z" in said and " in " in said
    assert shell.json("sale", "list") == [{"sale": SALE, "state": "draft", "opens_at": "2030-01-01T09:00:00Z"}]


def test_names_are_checked_and_never_used_again(shell: Shell) -> None:
    assert "a-z 0-9 -" in shell.refused("sale", "create", "Big Sale", code=2)
    shell.done("sale", "create", SALE)
    assert "choose another name" in shell.refused("sale", "create", SALE)
    shell.done("sale", "delete", SALE)
    assert "choose another name" in shell.refused("sale", "create", SALE)
    assert shell.json("sale", "list") == []


def test_a_create_that_died_before_redis_is_completed_by_repeating(shell: Shell) -> None:
    shell.done("sale", "create", SALE)
    shell.sale.plain.delete(*shell.sale.plain.keys("gk1:{*"))
    shell.done("sale", "create", SALE)
    assert shell.json("sale", "status", SALE)["state"] == "draft"


def test_a_sale_that_is_not_there_is_said_so_everywhere(shell: Shell) -> None:
    for words in (
        ["sale", "status", "gloves"], ["sale", "open", "gloves"], ["reservations", "list", "gloves"],
        ["export", "gloves"], ["reconcile", "gloves"], ["sku", "pause", "gloves", "A"],
    ):  # fmt: skip
        assert "there is no sale gloves" in shell.refused(*words)
    assert "there is no sale gloves" in shell.refused("stock", "load", "gloves", "-", stdin=STOCK)


def test_stock_is_stated_shown_and_repeated(shell: Shell, tmp_path: Path) -> None:
    shell.done("sale", "create", SALE)
    file = tmp_path / "stock.csv"
    file.write_text(STOCK)
    before = shell.sale.snapshot()
    dry = shell.json("stock", "load", SALE, str(file), "--dry-run")
    assert (dry["dry_run"], dry["new"], dry["changes"][0]) == (
        True,
        3,
        {"sku": "A", "now": None, "file": 3, "change": 3},
    )
    assert shell.sale.snapshot() == before and shell.rows("SELECT * FROM inventory") == []
    assert shell.json("stock", "load", SALE, str(file))["new"] == 3
    assert shell.json("stock", "load", SALE, str(file))["unchanged"] == 3
    file.write_text("sku;quantity\r\nA;5\r\nB;0\r\n")
    again = shell.json("stock", "load", SALE, str(file))
    assert (again["raised"], again["lowered"], again["unchanged"]) == (1, 1, 0)
    shell.drain()
    rows = shell.rows("SELECT sku, tracked, capacity, granted FROM inventory ORDER BY sku")
    assert rows == [("A", True, 5, 5), ("B", True, 0, 0), ("U", False, 0, 0)]
    assert shell.sale.stock() == {"A": "5 0 0 5 1 0", "B": "0 0 0 0 1 0", "U": "0 0 0 0 0 0"}


def test_a_file_with_errors_loads_nothing_and_names_every_line(shell: Shell) -> None:
    shell.done("sale", "create", SALE)
    said = shell.refused("stock", "load", SALE, "-", stdin="sku,quantity\nA,1\nB,x\nA,2\n")
    assert "line 3" in said and "line 4" in said and "2 bad lines; nothing was loaded" in said
    assert "No such file" in shell.refused("stock", "load", SALE, "missing.csv")


def test_stock_is_not_lowered_below_what_is_held(shell: Shell) -> None:
    shell.done("sale", "create", SALE)
    shell.done("stock", "load", SALE, "-", stdin=STOCK)
    shell.done("sale", "open", SALE)
    shell.sale.buy("A:2")
    shell.drain()
    result = shell.run("stock", "load", SALE, "-", stdin="sku,quantity\nA,1\n")
    assert result.exit_code == 1
    assert "2 held and 0 sold; lowest possible: 2" in result.stderr
    assert shell.json("stock", "load", SALE, "-", stdin="sku,quantity\nA,2\n")["lowered"] == 1
    assert shell.sale.stock()["A"] == "0 2 0 2 1 0"


def test_a_load_that_died_between_ledger_and_redis_is_completed_by_repeating(shell: Shell) -> None:
    shell.done("sale", "create", SALE)
    with ledger_stock.locked(shell.ledger, SALE):
        ledger_stock.record(shell.ledger, SALE, [("A", 3, True)], actor="test", reason="")
    assert shell.json("stock", "load", SALE, "-", stdin="sku,quantity\nA,3\n")["unchanged"] == 1
    assert shell.sale.stock() == {"A": "3 0 0 3 1 0"}


def test_adjust_adds_and_takes_back_with_a_reason(shell: Shell) -> None:
    shell.done("sale", "create", SALE)
    shell.done("stock", "load", SALE, "-", stdin=STOCK)
    shell.done("stock", "adjust", SALE, "A", "--by", "-2", "--reason", "damaged")
    shell.drain()
    assert shell.rows("SELECT capacity, granted FROM inventory WHERE sku = 'A'") == [(1, 1)]
    assert shell.rows("SELECT granted, reason FROM movements WHERE reason = 'damaged'") == [(-2, "damaged")]
    assert "must stay within" in shell.refused("stock", "adjust", SALE, "A", "--by", "-9", "--reason", "x")
    assert "expected a tracked SKU" in shell.refused("stock", "adjust", SALE, "Z", "--by", "1", "--reason", "x")


def test_reservations_are_listed_shown_and_exported(shell: Shell) -> None:
    shell.done("sale", "create", SALE)
    shell.done("stock", "load", SALE, "-", stdin=STOCK)
    shell.done("sale", "open", SALE)
    shell.sale.buy("A:1 U:2", buyer="bob", key="k1")
    shell.sale.buy("A:1", buyer="eve", key="k2")
    shell.drain()
    (row,) = shell.json("reservations", "list", SALE, "--buyer", "bob")
    assert row["items"] == [{"sku": "A", "quantity": 1}, {"sku": "U", "quantity": 2}]
    assert shell.json("reservations", "show", SALE, row["id"]) == row
    assert "has no reservation" in shell.refused("reservations", "show", SALE, "0" * 32)
    lines = shell.done("export", SALE).stdout.splitlines()
    assert lines[0].startswith("id,buyer,state,sku,quantity") and len(lines) == 4
    documents = [json.loads(line) for line in shell.done("export", SALE, "--json").stdout.splitlines()]
    assert sorted(document["buyer"] for document in documents) == ["bob", "eve"]
    status = shell.json("sale", "status", SALE)
    assert status["totals"] == {"available": 2, "held": 4, "sold": 0, "granted": 4}
    assert (status["pending"], status["ledger"]["refunds_due"], status["ledger"]["quarantined"]) == (0, 0, 0)
    assert "JACKET" not in shell.done("sale", "status", SALE).stdout


def test_reconcile_exits_3_on_drift(shell: Shell) -> None:
    shell.done("sale", "create", SALE)
    shell.done("stock", "load", SALE, "-", stdin=STOCK)
    assert shell.json("reconcile", SALE)["drift"] == []
    shell.sale.plain.hset(f"gk1:{{{SALE}}}:stock", "A", "4 0 0 4 1 0")
    result = shell.run("reconcile", SALE, "--json")
    assert result.exit_code == 3
    (drift,) = json.loads(result.stdout)["drift"]
    assert (drift["sku"], drift["redis"]["available"], drift["ledger"]["available"]) == ("A", 4, 3)


def test_a_fenced_sale_says_why(shell: Shell) -> None:
    shell.done("sale", "create", SALE)
    shell.sale.control("fence", reason="a test of fences")
    assert "a test of fences" in shell.done("sale", "status", SALE).stdout
    assert "a test of fences" in shell.refused("sale", "open", SALE)
    doctor = shell.run("doctor", "--json")
    findings = {finding["name"]: finding for finding in json.loads(doctor.stdout)["findings"]}
    assert doctor.exit_code == 1
    assert "a test of fences" in findings["sales"]["text"] and not findings["worker"]["ok"]
    assert findings["Redis"]["ok"] and findings["scripts"]["ok"]
    assert "set fsync = on" in findings["Postgres"]["text"]  # the tests' Postgres does without


def test_quarantine_is_listed(shell: Shell) -> None:
    assert shell.json("quarantine", "list") == []
    shell.done("sale", "create", SALE)
    shell.sale.plain.xadd(f"gk1:{{{SALE}}}:outbox", {"event": "nonsense"}, id="1-*")
    shell.drain()
    (row,) = shell.json("quarantine", "list", SALE)
    assert (row["sale"], row["position"], row["skus"]) == (SALE, "1-1", [])


def test_keys_are_shown_once_and_kept_as_hashes(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    made = shell.json("keys", "create", "--name", "web", "--role", "shop", "--file", str(file))
    assert made["key"].startswith("gk_shop_") and made["key"] not in file.read_text()
    assert file.read_text() == made["line"] + "\n" and file.stat().st_mode & 0o777 == 0o600


def test_unreachable_engines_are_one_sentence_not_a_traceback(shell: Shell) -> None:
    shell.environment["GATEKEEPER_DATABASE_URL"] = "postgresql://127.0.0.1:1/none"
    assert shell.refused("sale", "list").startswith("error: Postgres: ")
    shell.environment["GATEKEEPER_REDIS_URL"] = "redis://127.0.0.1:1/0"
    assert "GATEKEEPER_REDIS_URL" in shell.run("doctor").stdout
    shell.environment["GATEKEEPER_DURABILITY"] = "perhaps"
    assert "expected one of always, everysec, unverified" in shell.refused("sale", "list")


def test_a_hundred_thousand_skus_load_in_under_thirty_seconds(shell: Shell) -> None:
    shell.done("sale", "create", SALE)
    file = "sku,quantity\n" + "".join(f"SKU-{i},{i % 7}\n" for i in range(100_000))
    started = time.monotonic()
    assert shell.json("stock", "load", SALE, "-", stdin=file)["new"] == 100_000
    assert time.monotonic() - started < 30
    shell.drain()
    assert shell.rows("SELECT count(*), sum(granted) FROM inventory") == [(100_000, sum(i % 7 for i in range(100_000)))]
    assert shell.json("reconcile", SALE)["skus_compared"] == 100_000


def test_purchases_are_undisturbed_by_a_reconcile(shell: Shell) -> None:
    shell.done("sale", "create", SALE)
    shell.done("stock", "load", SALE, "-", stdin="sku,quantity\nA,1000\n")
    shell.done("sale", "open", SALE)

    async def story() -> list[int]:
        from workers.reconcile import reconcile

        async def sell() -> None:
            for i in range(100):
                await shell.sale.gate.admit(SALE, [Purchase.of(SALE, f"b{i}", "k", [("A", 1)])])

        async def compare() -> list[int]:
            return [len((await reconcile(shell.sale.gate, shell.ledger, SALE, keep=1000)).drift) for _ in range(10)]

        return (await asyncio.gather(sell(), compare()))[1]

    assert shell.sale.run(story()) == [0] * 10
