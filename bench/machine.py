"""What the figures stand on: the machine and the versions."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from gatekeeper.embedded.binaries import postgres_binaries, valkey_binary

_PACKAGES = ("uvicorn", "uvloop", "httptools", "starlette", "orjson", "redis", "hiredis", "psycopg", "rq")


def describe() -> dict[str, str]:
    """The machine in words."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def versions() -> dict[str, str]:
    """Everything that took part; `gatekeeper` is the commit, with + when files differ from it."""
    engines = {
        "valkey": _said([str(valkey_binary()), "--version"]).partition(" ")[2].partition(" sha")[0].rpartition("=")[2],
        "postgres": _said([str(postgres_binaries() / "postgres"), "--version"]).rpartition(" ")[2],
    }
    here = ["git", "-C", str(Path(__file__).parent)]
    commit = _said([*here, "rev-parse", "--short", "HEAD"])
    changed = "+" if _said([*here, "status", "--porcelain", "--untracked-files=no"]) else ""
    packages = {name: version(name) for name in _PACKAGES}
    return {"gatekeeper": f"{commit}{changed}", "python": platform.python_version(), **engines, **packages}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _said(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except OSError:
        return ""
