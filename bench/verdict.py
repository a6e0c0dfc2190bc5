"""What a run saw, and whether it passed. Pure: processes add up what they saw, one of them judges.

Exit codes: 0 passed; 1 a threshold was violated, or something could not be checked; 3 units were oversold, a promise
was broken, or the books do not fit.
"""

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

KEPT_UP = 0.95
"""Share of the scheduled arrivals that must have been sent: below, the generator was overloaded, not the gate."""


@dataclass(slots=True)
class Seen:
    """What one process saw, or the sum of several. Units are per SKU."""

    scheduled: int = 0
    """Buyers who should have come."""
    came: int = 0
    """Buyers who did; the others found the process at its limit."""
    gave_up: int = 0
    """Buyers to whom nothing was decided, however often they asked."""
    answers: Counter[str] = field(default_factory=Counter)
    """Purchases by answer: "201", "409 sold_out", "503 overloaded", "no answer"."""
    requests: int = 0
    """All of them: purchases, confirms, releases, settles."""
    errors: int = 0
    """Of these, answered 5xx or not at all."""
    latencies: Counter[int] = field(default_factory=Counter)
    """Purchases by ms until the answer, from the moment the buyer should have come."""
    late: Counter[int] = field(default_factory=Counter)
    """Buyers by ms that they came late because this process was busy."""
    told: int = 0
    """Reservations that buyers were told of."""
    ended: Counter[str] = field(default_factory=Counter)
    """Reservations by state at the end: sold, released, expired, held."""
    sold: Counter[str] = field(default_factory=Counter)
    """Units confirmed as sold."""
    theirs: Counter[str] = field(default_factory=Counter)
    """Units that buyers were told are theirs, and that nothing took from them: sold, or still held."""
    unread: int = 0
    """Reservations of which nobody could find out what became."""
    broken: Counter[str] = field(default_factory=Counter)
    """Promises broken, by what happened."""

    def plain(self) -> dict[str, Any]:
        """As a message's data; ms become text."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            name: {str(k): n for k, n in value.items()} if isinstance(value, Counter) else value
            for name, value in found.items()
        }

    def add(self, plain: dict[str, Any]) -> None:
        """Add what another process saw."""
        for name, value in plain.items():
            if not isinstance(value, dict):
                setattr(self, name, getattr(self, name) + value)
            elif name in ("latencies", "late"):
                getattr(self, name).update({int(ms): n for ms, n in value.items()})
            else:
                getattr(self, name).update(value)

    @property
    def error_share(self) -> float:
        """Share of requests answered 5xx or not at all, 0 to 1."""
        return self.errors / self.requests if self.requests else 0.0


def percentile(times: Counter[int], share: float) -> int:
    """The ms that this share of them did not exceed; 0 without any."""
    left = share * times.total()
    for ms, count in sorted(times.items()):
        left -= count
        if left <= 0:
            return ms
    return 0


def rounded(ms: float) -> int:
    """Round a latency to two digits, so that a message stays small however long the run: 7, 42, 180, 1300."""
    whole = round(ms)
    return whole if whole < 100 else round(whole, 2 - len(str(whole)))


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run must keep; None: not asked."""

    p99_ms: float | None = None
    errors: float | None = None
    """Share, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a run ended."""

    code: int
    """The exit code."""
    wrongs: list[str]
    """Oversold units, broken promises, books that do not fit."""
    missed: list[str]
    """Thresholds, and what could not be checked."""


def judge(seen: Seen, pages: list[dict[str, Any]] | None, limits: Limits, *, missing: int = 0) -> Verdict:
    """Judge a run by what it saw and by all pages of the sale's admin status, read after it (None: unreadable).

    `missing`: processes that did not say what they saw.
    """
    wrongs = [f"{what}: {count}" for what, count in sorted(seen.broken.items())]
    wrongs += [] if pages is None else books(pages) + oversold(seen, pages)
    missed = thresholds(seen, limits)
    if pages is None:
        missed.append("the sale's status could not be read: nothing is proven")
    if missing:
        missed.append(f"{missing} processes did not report what they saw: nothing is proven")
    if seen.unread:
        missed.append(f"{seen.unread} reservations could not be read again at the end")
    return Verdict(3 if wrongs else 1 if missed else 0, wrongs, missed)


def books(pages: list[dict[str, Any]]) -> list[str]:
    """What does not fit in a sale's own counters."""
    flaws = []
    for sku in _tracked(pages):
        parts = [sku[name] for name in ("available", "held", "sold")]
        if sum(parts) != sku["granted"] or min(parts) < 0:
            sums = f"available {parts[0]} + held {parts[1]} + sold {parts[2]} is not granted {sku['granted']}"
            flaws.append(f"{sku['sku']}: {sums}")
    checkpoint = pages[-1].get("checkpoint") if pages else None
    if checkpoint and checkpoint["result"] == "drift":
        flaws.append(f"Redis and the ledger differ at {checkpoint['position']}: gatekeeper reconcile SALE")
    return flaws


def oversold(seen: Seen, pages: list[dict[str, Any]]) -> list[str]:
    """Where buyers were told of more units than there are, or of sales that the gate does not know."""
    flaws = []
    for sku in _tracked(pages):
        name = sku["sku"]
        if seen.theirs[name] > sku["granted"]:
            flaws.append(f"{name}: oversold, {seen.theirs[name]} units are buyers' of {sku['granted']} granted")
        if seen.sold[name] > sku["sold"]:
            flaws.append(f"{name}: {seen.sold[name]} units were confirmed, the gate knows of {sku['sold']} sold")
    return flaws


def _tracked(pages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [sku for page in pages for sku in page["skus"] if sku["tracked"]]


def thresholds(seen: Seen, limits: Limits) -> list[str]:
    """Which thresholds the run violated. One that was asked and could not be measured counts as violated."""
    missed = []
    if not seen.latencies:
        missed.append("no purchase was answered: nothing was measured")
    elif limits.p99_ms is not None and (p99 := percentile(seen.latencies, 0.99)) > limits.p99_ms:
        missed.append(f"p99 {p99} ms is over {limits.p99_ms:g} ms")
    if limits.errors is not None and seen.error_share > limits.errors:
        missed.append(f"{seen.error_share:.2%} of requests answered 5xx or not at all, allowed {limits.errors:.2%}")
    if seen.came < KEPT_UP * seen.scheduled:
        missed.append(
            f"only {seen.came} of {seen.scheduled} buyers could be sent: the load generator was at its limit"
            " (--processes, --max-active)"
        )
    return missed


def summary(seen: Seen, verdict: Verdict) -> str:
    """The run for a person, in a few lines."""
    answers = " · ".join(f"{answer}: {count}" for answer, count in seen.answers.most_common())
    ended = ", ".join(f"{count} {state}" for state, count in seen.ended.most_common()) or "none"
    p50, p99 = percentile(seen.latencies, 0.5), percentile(seen.latencies, 0.99)
    lines = [
        f"buyers    {seen.came} of {seen.scheduled} came, {seen.gave_up} gave up; 99 % of them no more than"
        f" {percentile(seen.late, 0.99)} ms late",
        f"purchases {answers or 'none'}",
        f"latency   p50 {p50} ms · p99 {p99} ms of a purchase, from the moment the buyer should have come",
        f"errors    {seen.errors} of {seen.requests} requests ({seen.error_share:.2%}) answered 5xx or not at all",
        f"promises  {seen.told} reservations told: {ended}",
        *(f"WRONG     {line}" for line in verdict.wrongs),
        *(f"missed    {line}" for line in verdict.missed),
    ]
    if not verdict.wrongs and verdict.code == 0:
        lines.append("passed    nothing oversold, every promise kept, the books fit")
    return "\n".join(lines)
