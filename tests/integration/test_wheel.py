"""The wheel holds everything that the code reads, and works installed."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import lua
from gatekeeper.ledger.migrate import shipped
print(lua.__file__, len(lua.SCRIPTS), len(shipped()))
"""


def test_the_wheel_contains_every_script_and_migration_and_loads_them(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
    ]
    subprocess.run([*command, str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("gatekeeper-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        packed.extractall(tmp_path / "installed")
    scripts, migrations = [*(ROOT / "lua").glob("*.lua")], [*(ROOT / "gatekeeper/ledger/migrations").glob("*.sql")]
    assert {str(path.relative_to(ROOT)) for path in scripts + migrations} <= names
    counts = [str(len(scripts) - 1), str(len(migrations))]  # the prelude is part of every script
    run = [sys.executable, "-c", CODE]
    found = subprocess.run(run, cwd=tmp_path / "installed", capture_output=True, text=True, check=True).stdout.split()
    assert found[0].startswith(str(tmp_path)) and found[1:] == counts
