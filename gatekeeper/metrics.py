"""Every Prometheus metric. Base units, `_total` for counters; labels only of closed sets, never a sale or a buyer.

Children are looked up once and kept (`labels()` costs more than the increment itself). What every purchase counts is
first kept in plain numbers, and handed over many times a second by `flush`: an increment takes a lock, and with several
processes writes to a file.
"""

import os
import shutil
import tempfile
from bisect import bisect_right
from collections import defaultdict
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


class BulkHistogram(Histogram):
    """A histogram that takes many values at once."""

    def observe_all(self, values: list[float]) -> None:
        """As `observe` of each, at a tenth of its price; leaves them sorted."""
        values.sort()
        self._sum.inc(sum(values))
        below = 0
        for bucket, bound in zip(self._buckets, self._upper_bounds, strict=True):
            upto = bisect_right(values, bound, below)
            if upto > below:
                bucket.inc(upto - below)
                below = upto


_purchase_seconds = BulkHistogram(
    "gatekeeper_purchase_duration_seconds", "A purchase, received to decided.", buckets=FAST
)
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


PURCHASES: defaultdict[str, int] = defaultdict(int)
"""Outcome → purchases answered with it since the last flush."""
REQUESTS: defaultdict[tuple[str, int], int] = defaultdict(int)
"""(Route, which is a template and not a path; status) → HTTP requests answered since the last flush."""
PURCHASE_SECONDS: list[float] = []
"""Durations of purchases, received to decided, since the last flush."""


def flush() -> None:
    """Hand over what was counted in plain numbers."""
    for outcome, count in PURCHASES.items():
        _purchases.labels(outcome).inc(count)
    for (route, status), count in REQUESTS.items():
        _requests.labels(route, str(status)).inc(count)
    _purchase_seconds.observe_all(PURCHASE_SECONDS)
    for counted in (PURCHASES, REQUESTS, PURCHASE_SECONDS):
        counted.clear()


@cache
def endings(verb: str, outcome: str) -> Counter:
    """Counter of confirm, release or settle, by outcome; `replayed` for one that was answered before."""
    return _endings.labels(verb, outcome)


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
