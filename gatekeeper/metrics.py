"""Every Prometheus metric. Base units, `_total` for counters; labels only of closed sets, never a sale or a buyer.

Children are looked up once and kept (`labels()` costs more than the increment itself).
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

_SHARED = "PROMETHEUS_MULTIPROC_DIR"

FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Buckets in seconds for what should take milliseconds."""

_purchases = Counter("gatekeeper_purchases_total", "Purchases answered, by outcome.", ["outcome"])
_requests = Counter("gatekeeper_http_requests_total", "HTTP requests answered.", ["route", "status"])
_endings = Counter("gatekeeper_endings_total", "Confirms, releases and settlements answered.", ["verb", "outcome"])
_scripts = Histogram(
    "gatekeeper_script_duration_seconds", "One script call, sent to answered.", ["script"], buckets=FAST
)
_script_errors = Counter("gatekeeper_script_errors_total", "Script calls without a decision.", ["script", "error"])

REQUEST_SECONDS = Histogram("gatekeeper_purchase_duration_seconds", "A purchase, received to decided.", buckets=FAST)
BATCH_SIZE = Histogram(
    "gatekeeper_batch_purchases", "Purchases in one admit call.", buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)
QUEUED = Gauge("gatekeeper_queued_purchases", "Purchases waiting in front doors.", multiprocess_mode="livesum")
REDIS_SETTINGS = Gauge(
    "gatekeeper_redis_settings_safe", "1 when Redis has the required settings.", multiprocess_mode="livemin"
)

REDIS_SETTINGS.set(1)  # until a process that checks finds otherwise: the minimum over all processes counts

EVENTS_APPLIED = Counter("gatekeeper_ledger_events_total", "Events applied to the ledger.")
EVENTS_QUARANTINED = Counter("gatekeeper_quarantined_events_total", "Events that could not be applied.")
APPLY_SECONDS = Histogram("gatekeeper_ledger_apply_duration_seconds", "One ledger transaction.", buckets=FAST)
LAG_SECONDS = Histogram(
    "gatekeeper_ledger_lag_seconds",
    "Acknowledged to in the ledger, newest event of a batch.",
    buckets=(*FAST, 5, 30, 300),
)
_checkpoints = Counter("gatekeeper_checkpoints_total", "Checkpoints compared.", ["result"])
ESCALATIONS = Counter("gatekeeper_escalations_total", "Sales paused because Redis had far too much available.")
EPOCHS = Counter("gatekeeper_epochs_opened_total", "Epochs proven and opened.")
FENCED_SALES = Gauge("gatekeeper_fenced_sales", "Sales that answer nothing until proven.", multiprocess_mode="livemax")
PENDING = Gauge("gatekeeper_pending_events", "Events not in the ledger yet.", multiprocess_mode="livemax")
QUARANTINED = Gauge("gatekeeper_quarantine_events", "Events in quarantine now.", multiprocess_mode="livemax")
REFUNDS_DUE = Gauge("gatekeeper_refunds_due", "Payments that are due back now.", multiprocess_mode="livemax")
EXPIRED = Counter("gatekeeper_expired_holds_total", "Holds that ended at their deadline.")
EXPIRY_LAG = Histogram(
    "gatekeeper_expiry_lag_seconds",
    "How overdue the oldest hold of a sweep was.",
    buckets=(0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 3600),
)
EXPIRY_SWEEP = Gauge(
    "gatekeeper_expiry_last_sweep_timestamp_seconds", "When expiry last looked.", multiprocess_mode="livemax"
)
TICKS = Gauge(
    "gatekeeper_ticker_last_tick_timestamp_seconds", "When the ticker last looked.", multiprocess_mode="livemax"
)


@cache
def purchases(outcome: str) -> Counter:
    """Counter of purchases with this outcome."""
    return _purchases.labels(outcome)


@cache
def endings(verb: str, outcome: str) -> Counter:
    """Counter of confirm, release or settle, by outcome; `replayed` for one that was answered before."""
    return _endings.labels(verb, outcome)


@cache
def requests(route: str, status: int) -> Counter:
    """Counter of HTTP requests by route (a template, not a path) and status."""
    return _requests.labels(route, str(status))


@cache
def checkpoints(result: str) -> Counter:
    """Counter of checkpoints that were `equal`, `unproven` (quarantine explains it) or showed `drift`."""
    return _checkpoints.labels(result)


@cache
def script_seconds(script: str) -> Histogram:
    """Histogram of one script's calls."""
    return _scripts.labels(script)


@cache
def script_errors(script: str, error: str) -> Counter:
    """Counter of a script's calls that gave no decision, by exception class."""
    return _script_errors.labels(script, error)


@contextmanager
def shared_folder() -> Iterator[str]:
    """A folder where the metrics of the processes started meanwhile meet, unless the environment names one."""
    if given := os.environ.get(_SHARED):
        yield given
        return
    folder = tempfile.mkdtemp(prefix="gatekeeper-metrics-")
    os.environ[_SHARED] = folder
    try:
        yield folder
    finally:
        del os.environ[_SHARED]
        shutil.rmtree(folder, ignore_errors=True)


def forget_process(pid: int) -> None:
    """Drop the gauges of a process that ended."""
    if _SHARED in os.environ:
        mark_process_dead(pid)  # type: ignore[no-untyped-call]


def registry() -> CollectorRegistry:
    """This process's metrics, or those of all processes that share a folder."""
    if _SHARED not in os.environ:
        return REGISTRY
    together = CollectorRegistry()
    MultiProcessCollector(together)  # type: ignore[no-untyped-call]
    return together
