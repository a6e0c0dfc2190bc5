"""`gatekeeper worker`: the controller, the ticker and the RQ workers, each a process of its own, kept alive."""

import logging
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

from gatekeeper.process import die_with_parent
from gatekeeper.settings import Settings

log = logging.getLogger(__name__)

GRACE = 10.0
"""Seconds to finish the transaction at hand; a killed one is only done again."""
BACKOFF = 1.0
"""Seconds before a child that died starts again."""


@dataclass(slots=True)
class Child:
    """One child process, and when it may start (again)."""

    module: str
    process: "subprocess.Popen[bytes] | None" = None
    start_at: float = field(default=0.0)

    def keep_alive(self) -> None:
        """Start it when it does not run and its back-off is over."""
        if self.process is not None and self.process.poll() is not None:
            log.warning("%s ended with %s and starts again", self.module, self.process.returncode)
            self.process, self.start_at = None, time.monotonic() + BACKOFF
        if self.process is None and time.monotonic() >= self.start_at:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module], preexec_fn=die_with_parent(signal.SIGTERM)
            )


def run(settings: Settings, *, processes: int = 1) -> None:
    """Run until SIGTERM or SIGINT; `processes` RQ workers drain side by side. Several supervisors may run."""
    settings.require("redis_url", "database_url")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    children = [
        Child("workers.controller"),
        Child("workers.ticker"),
        *(Child("workers.queue") for _ in range(processes)),
    ]
    while not stop.is_set():
        for child in children:
            child.keep_alive()
        stop.wait(0.2)
    _stop([child.process for child in children if child.process])


def _stop(processes: "list[subprocess.Popen[bytes]]") -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
