"""What is counted in plain numbers comes to what Prometheus would have counted one by one."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY, CollectorRegistry, Histogram

from gatekeeper import metrics
from gatekeeper.metrics import FAST, BulkHistogram


@given(st.lists(st.lists(st.floats(0, 4) | st.sampled_from(FAST), max_size=50), max_size=4))
def test_many_values_at_once_are_observed_as_one_by_one(batches: list[list[float]]) -> None:
    registry = CollectorRegistry()
    bulk = BulkHistogram("bulk", "-", buckets=FAST, registry=registry)
    single = Histogram("single", "-", buckets=FAST, registry=registry)
    for values in batches:
        for value in values:
            single.observe(value)
        bulk.observe_all(list(values))
    for bound in (*FAST, float("inf")):
        le = {"le": str(bound) if bound != float("inf") else "+Inf"}
        assert registry.get_sample_value("bulk_bucket", le) == registry.get_sample_value("single_bucket", le)
    sums = [registry.get_sample_value(f"{name}_sum") or 0.0 for name in ("bulk", "single")]
    assert abs(sums[0] - sums[1]) < 1e-6


def test_a_flush_hands_over_each_count_once() -> None:
    def counted() -> list[float]:
        names = [
            ("gatekeeper_purchases_total", {"outcome": "test_only"}),
            ("gatekeeper_http_requests_total", {"route": "/test", "status": "201"}),
            ("gatekeeper_purchase_duration_seconds_count", {}),
        ]
        return [REGISTRY.get_sample_value(name, labels) or 0.0 for name, labels in names]

    metrics.flush()
    before = counted()
    metrics.PURCHASES["test_only"] += 3
    metrics.REQUESTS["/test", 201] += 2
    metrics.PURCHASE_SECONDS.extend((0.001, 0.2))
    for _ in range(2):
        metrics.flush()
        assert [now - then for now, then in zip(counted(), before, strict=True)] == [3, 2, 2]
