"""`gatekeeper worker`: the controller, the ticker and the RQ workers, each a process of its own, kept alive."""

import logging
import signal
import threading

from gatekeeper.process import Child, stop_all
from gatekeeper.settings import Settings

log = logging.getLogger(__name__)

LOOK = 0.2
"""Seconds between looks at the children."""


def run(settings: Settings, *, processes: int = 1) -> None:
    """Run until SIGTERM or SIGINT; `processes` RQ workers drain side by side. Several supervisors may run."""
    settings.require("redis_url", "database_url")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    children = [Child([f"workers.{name}"]) for name in ("controller", "ticker", *["queue"] * processes)]
    while not stop.is_set():
        for child in children:
            child.keep_alive(log.warning)
        stop.wait(LOOK)
    stop_all(children)
