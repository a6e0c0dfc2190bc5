"""The results as files: JSON, a Markdown page, plots."""

import json
from pathlib import Path
from typing import Any


def write(result: dict[str, Any], out: Path) -> list[Path]:
    """Write everything into a folder; returns the paths."""
    out.mkdir(parents=True, exist_ok=True)
    data = out / "benchmarks.json"
    data.write_text(json.dumps(result, indent=1) + "\n")
    return [data]
