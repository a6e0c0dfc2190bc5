"""One cell: a contestant, so many connections, SKUs and units, for so many seconds; then medians of many."""

import statistics
from collections.abc import Mapping, Sequence

from bench import client, processes
from bench.cells import Cell
from bench.contestants import Contestant, Desk
from bench.processes import Spent
from bench.target import Seen

Figures = dict[str, float | None]
"""What one cell came to, by the names in `MEANING`; None: there is no such thing for this contestant."""

PROFILE = {
    "cpu_door_user_us": "CPU µs per answered request of the front door (echo, baseline) under load, in user space",
    "cpu_door_system_us": "the same in the kernel",
    "cpu_valkey_us": "the same of Valkey, both",
    "cpu_worker_us": "the same of all the worker's processes",
    "cpu_postgres_us": "the same of Postgres",
    "cpu_client_us": "the same of the client",
    "cpu_all_us": "the same of all of them",
    "door_cores": "cores' worth of CPU that the front door took under load; it is one process",
    "cores_used": "the same of all of them",
    "cores_idle": "cores that nobody on the machine used meanwhile, waits for the disk included",
}
MEANING = {
    "offered_per_s": "requests answered per second",
    "admitted_per_s": "purchases admitted per second while there was stock",
    "persisted_per_s": "orders in Postgres per second, from the first request to the last order",
    "p50_ms": "latency that half of the answers did not exceed",
    "p99_ms": "the same of 99 %",
    "p999_ms": "the same of 99.9 %",
    "oversold": "units promised beyond the stock",
    "unpersisted": "units promised that Postgres does not have at the end",
    "refused_with_stock": "purchases refused although units were left",
    "aborts": "attempts thrown away: rolled back, or lost to another's write",
    "errors": "requests without an answer",
    "cpu_per_10k": "CPU seconds of servers and engines per 10,000 purchases (echo: answers), until persisted",
    **PROFILE,
}


def measure(contestant: Contestant, desk: Desk, roots: Mapping[str, int], cell: Cell, seconds: float) -> Figures:
    """Run one cell; `roots`: kind → pid of the contestant's processes."""
    target = desk.prepare(cell.skus, cell.units, cell.keyed)
    cpu = processes.servers_seconds()
    with desk.under_load():
        idle, before = processes.idle_seconds(), processes.spent(roots)
        seen = client.rush(target, cell.connections, seconds)
        idle, after = processes.idle_seconds() - idle, processes.spent(roots)
    books = desk.books()
    cpu_after = processes.servers_seconds()
    spent = cpu_after - cpu if cpu is not None and cpu_after is not None else None
    figures: Figures = {
        "offered_per_s": seen.requests / seen.seconds,
        "p50_ms": seen.p50_ms,
        "p99_ms": seen.p99_ms,
        "p999_ms": seen.p999_ms,
        "errors": float(seen.errors),
        **profile({kind: after[kind].minus(before[kind]) for kind in after}, idle, seen),
    }
    if not contestant.decides:
        return figures | {"cpu_per_10k": _each_10k(spent, seen.requests)}
    left = cell.units - books.sold
    # While there is stock the client's count is exact; of a short sale only the books know when it ended.
    admitted = seen.accepted / seen.seconds if left > 0 else books.sold / max(books.selling_seconds, 1e-3)
    return figures | {
        "admitted_per_s": admitted,
        "persisted_per_s": _rate(books.persisted, books.persisted_seconds),
        "oversold": float(max(0, -left)),
        "unpersisted": None if books.persisted is None else float(books.sold - books.persisted),
        # Stock only falls here: if some is left at the end, it was there at every refusal.
        "refused_with_stock": float(books.busy + (books.sold_out if left > 0 else 0)),
        "aborts": float(books.aborts),
        "cpu_per_10k": _each_10k(spent, books.sold) if left > 0 else None,
    }


def profile(spent: Mapping[str, Spent], idle: float, seen: Seen) -> Figures:
    """What each kind of process spent, and cores were idle (s), while the client saw this; {}: nobody was visible."""
    if not spent or not seen.requests:
        return dict.fromkeys(PROFILE)
    door, everybody = spent["door"], sum(sum(one) for one in spent.values())
    seconds = {"door_user": door.user, "door_system": door.system, "all": everybody}
    for kind in ("valkey", "worker", "postgres", "client"):
        if kind in spent:
            seconds[kind] = sum(spent[kind])
    return {
        **dict.fromkeys(PROFILE),
        **{f"cpu_{part}_us": of_it / seen.requests * 1e6 for part, of_it in seconds.items()},
        "door_cores": sum(door) / seen.seconds,
        "cores_used": everybody / seen.seconds,
        "cores_idle": idle / seen.seconds,
    }


def _rate(count: int | None, seconds: float | None) -> float | None:
    return None if count is None or seconds is None else count / max(seconds, 1e-3)


def _each_10k(spent: float | None, count: int) -> float | None:
    return None if spent is None or not count else spent / count * 10_000


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and both ends of what the rounds found."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summary(rounds: Sequence[Figures]) -> dict[str, dict[str, float] | None]:
    """Spread of every figure over the rounds of one cell; oversold and lost units count wherever they happened."""
    found: dict[str, dict[str, float] | None] = {}
    for name in rounds[0]:
        values = [value for figures in rounds if (value := figures.get(name)) is not None]
        found[name] = spread(values) if values else None
    return found
