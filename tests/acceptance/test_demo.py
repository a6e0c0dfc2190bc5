"""The demo proves what it says, and leaves nothing behind."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path


def test_the_demo_sells_every_unit_once_and_proves_its_books(tmp_path: Path) -> None:
    folders = set(Path(tempfile.gettempdir()).glob("gatekeeper-demo-*"))
    command = [sys.executable, "-m", "gatekeeper", "demo", "--buyers", "400", "--stock", "20", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    gate = result["gate"]
    assert result.keys() == {"naive", "gate", "payments"} and result["naive"].keys() == {"sold", "oversold"}
    assert result["naive"]["oversold"] == max(0, result["naive"]["sold"] - 20)
    assert (gate["buyers"], gate["stock"], gate["sold"], gate["oversold"]) == (400, 20, 20, 0)
    paid = result["payments"]
    assert paid.keys() == {"sold", "released", "expired", "refund_due", "unresolved"}
    assert (paid["sold"], paid["unresolved"], gate["drift"]) == (20, 0, 0)
    assert gate["ledger_rows"] == paid["sold"] + paid["released"] + paid["expired"] >= 20
    assert paid["refund_due"] <= paid["expired"]
    assert gate["duplicates"] > 0
    assert all(gate[name] > 0 for name in ("offered_per_s", "admitted_per_s", "persisted_per_s", "p50_ms"))
    assert gate["p99_ms"] >= gate["p50_ms"]
    assert set(Path(tempfile.gettempdir()).glob("gatekeeper-demo-*")) == folders
    assert list(tmp_path.iterdir()) == []
