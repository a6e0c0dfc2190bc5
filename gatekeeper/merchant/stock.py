"""State stock: the merchant says each SKU's capacity, and numbered grants carry the difference to Redis.

More: the ledger first, then Redis. Less: Redis first takes it from what is available, or refuses; its event lowers
the ledger. Dead at any point in between, the same command repeated completes it: pending grants are sent again, and
Redis applies only the number that follows its last.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gatekeeper.errors import GatekeeperError
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection, stock
from gatekeeper.ledger.stock import Line, StockRow
from gatekeeper.outcomes import Outcome
from gatekeeper.replies import Lacking

LINES_PER_GRANT = 1000
"""SKUs in one script call: ≈ 3 ms of Redis's time."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a merchant states of one SKU: its capacity in units (0 when it is not tracked)."""

    sku: str
    capacity: int
    tracked: bool = True


@dataclass(frozen=True, slots=True)
class Change:
    """One SKU now and as stated."""

    sku: str
    tracked: bool
    now: int | None
    """Capacity in units; None: the SKU is new."""
    stated: int

    @property
    def delta(self) -> int:
        """Units to grant; negative: to take back."""
        return self.stated - (self.now or 0)

    @property
    def unchanged(self) -> bool:
        """Whether there is nothing to do."""
        return self.now == self.stated


class StockRefused(GatekeeperError):
    """The statement as a whole cannot be carried out."""


@dataclass(frozen=True, slots=True)
class Stated:
    """What became of a statement."""

    changes: list[Change]
    refused: list[Lacking]
    """SKUs that could not be lowered, and what of them is held or sold."""


def compare(rows: dict[str, StockRow], wanted: Sequence[Wanted]) -> list[Change]:
    """Return each stated SKU against the ledger; raises StockRefused when one changes whether it is tracked."""
    changes = []
    for want in wanted:
        row = rows.get(want.sku)
        if row and row.tracked != want.tracked:
            raise StockRefused(f"{want.sku}: tracked was {_yes(row.tracked)} and cannot become {_yes(want.tracked)}")
        changes.append(Change(want.sku, want.tracked, row.capacity if row else None, want.capacity))
    return changes


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


async def state(
    gate: Gate,
    connection: Connection,
    sale: str,
    wanted: Callable[[dict[str, StockRow]], Sequence[Wanted]],
    *,
    actor: str,
    reason: str = "",
    progress: Callable[[int], None] = lambda lines: None,
) -> Stated:
    """Bring capacities to what `wanted` makes of the inventory; `progress` hears the lines granted so far."""
    with stock.locked(connection, sale):
        for grant in stock.pending(connection, sale):
            await _grant(gate, connection, sale, grant.number, grant.lines, actor=grant.actor, reason=grant.reason)
        rows = stock.rows(connection, sale)
        changes = compare(rows, wanted(rows))
        refused: list[Lacking] = []
        done = 0
        for lines in _grants(changes):
            number = stock.record(connection, sale, lines, actor=actor, reason=reason)
            refused += await _grant(gate, connection, sale, number, lines, actor=actor, reason=reason)
            done += len(lines)
            progress(done)
    await gate.ring([sale])
    return Stated(changes, refused)


def _grants(changes: Sequence[Change]) -> list[list[Line]]:
    """Cut the changes into grants that either add or take back, never both."""
    raised = [(c.sku, c.delta, c.tracked) for c in changes if c.delta > 0 or c.now is None]
    lowered = [(c.sku, c.delta, c.tracked) for c in changes if c.delta < 0]
    return [
        lines[start : start + LINES_PER_GRANT]
        for lines in (raised, lowered)
        for start in range(0, len(lines), LINES_PER_GRANT)
    ]


async def _grant(
    gate: Gate, connection: Connection, sale: str, number: int, lines: list[Line], *, actor: str, reason: str
) -> list[Lacking]:
    """Have Redis apply a recorded grant; lines that it refuses are dropped from the grant, and the rest asked again."""
    reply = await gate.grant(sale, number, lines, actor=actor, reason=reason)
    if reply.outcome in (Outcome.OK, Outcome.ALREADY_GRANTED):
        return []
    if reply.outcome is Outcome.NOT_AVAILABLE:
        skus = {lacking.sku for lacking in reply.lacking}
        stock.drop(connection, sale, number, list(skus))
        rest = [line for line in lines if line[0] not in skus]
        refused = list(reply.lacking)
        return refused + (
            await _grant(gate, connection, sale, number, rest, actor=actor, reason=reason) if rest else []
        )
    stock.drop(connection, sale, number, [sku for sku, _, _ in lines])
    raise StockRefused(_REFUSALS[reply.outcome].format(sale=sale, reply=reply, number=number))


_REFUSALS = {
    Outcome.SALE_CLOSED: "sale {sale} is closed: its stock can no longer change",
    Outcome.TOO_LARGE: "{reply.sku}: more than 2147483647 units in all",
    Outcome.TRACKING_FIXED: "{reply.sku}: Redis and the ledger disagree on whether it is tracked",
    Outcome.GRANT_GAP: "Redis has grants up to {reply.last}, not {number} - 1: it lost some, run `gatekeeper doctor`",
}
