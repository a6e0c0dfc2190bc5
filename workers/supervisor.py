"""`gatekeeper worker`: controller, ticker, expiry, checkpoints and the RQ workers, each a process, kept alive."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import start_http_server

from gatekeeper.metrics import forget_process, registry, shared_folder
from gatekeeper.process import Child, stop_all
from gatekeeper.settings import Settings

log = logging.getLogger(__name__)

PARTS = ("controller", "ticker", "expire", "checkpoints")
LOOK = 0.2
"""Seconds between looks at the children."""


def run(settings: Settings, *, processes: int = 1, metrics_port: int = 0) -> None:
    """Run until SIGTERM or SIGINT; `processes` RQ workers drain side by side. Several supervisors may run.

    `metrics_port`: serves the metrics of all its processes at /metrics on every interface; 0: nowhere.
    """
    settings.require("redis_url", "database_url")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    children = [Child([f"workers.{name}"]) for name in (*PARTS, *["queue"] * processes)]
    with shared_folder(), _metrics_served(metrics_port):
        while not stop.is_set():
            for child in children:
                if child.process is not None and child.died:
                    forget_process(child.process.pid)
                child.keep_alive(log.warning)
            stop.wait(LOOK)
        stop_all(children)


@contextmanager
def _metrics_served(port: int) -> Iterator[None]:
    if not port:
        yield
        return
    server, thread = start_http_server(port, registry=registry())
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
