"""The client of a closed loop: wrk where it is installed, else the bundled one, which is slower and says so."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from bench import line
from bench.target import Seen, Target
from gatekeeper.demo.crowd import allow_connections

_SCRIPT = Path(__file__).with_name("purchases.lua")
_GRACE = 15.0
"""Seconds that wrk may take longer than it was told to."""


def name() -> str:
    """Which client measures peaks."""
    if not (wrk := shutil.which("wrk")):
        return "bundled asyncio client (wrk is not installed: peaks are the client's as much as the server's)"
    said = subprocess.run([wrk, "--version"], capture_output=True, text=True, timeout=10).stdout.split()
    return f"wrk {said[1] if len(said) > 1 else ''}, one thread".replace("debian/", "")


def rush(target: Target, connections: int, seconds: float) -> Seen:
    """Send as fast as answers come; raises RuntimeError when wrk fails."""
    allow_connections(connections + 100)
    wrk = shutil.which("wrk")
    if not wrk:
        return line.run(target, connections, seconds)
    command = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s", "-s", str(_SCRIPT)]
    command += [f"http://127.0.0.1:{target.port}", "--", target.path, target.run, str(target.skus)]
    command += [str(int(target.keyed)), *([target.bearer] if target.bearer else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + _GRACE)
    try:
        return Seen(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        raise RuntimeError(f"wrk failed ({done.returncode}): {done.stdout[-500:]}{done.stderr[-500:]}") from None


def pace(target: Target, connections: int, seconds: float, rate: float) -> Seen:
    """Send at a constant rate, requests/s, with the bundled client."""
    allow_connections(connections + 100)
    return line.run(target, connections, seconds, rate)


def warm(target: Target) -> None:
    """Let a server open its connections and fill its caches before anything is measured."""
    line.run(replace(target, run=f"{target.run}-warm"), 16, 0.3)
