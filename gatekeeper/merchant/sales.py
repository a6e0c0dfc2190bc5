"""Create and delete sales: the ledger first, then Redis."""

from dataclasses import dataclass
from datetime import datetime

from gatekeeper.errors import GatekeeperError, InvalidInput, SaleFenced, UnknownSale
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection, cursors, sales
from gatekeeper.model import Position
from gatekeeper.outcomes import Outcome
from gatekeeper.replies import Changed


class NameTaken(GatekeeperError):
    """A sale of that name exists or existed; names are never used again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a merchant may set of a sale."""

    opens_at: datetime | None = None
    closes_at: datetime | None = None
    per_buyer: int = 0
    """Units one buyer may have; 0 = no limit."""
    hold_seconds: int = 300

    def __post_init__(self) -> None:
        if self.opens_at and self.closes_at and self.closes_at <= self.opens_at:
            raise InvalidInput("closes_at: expected a time after opens_at")


def to_ms(moment: datetime | None) -> int:
    """Return ms since 1970, 0 for None: how Redis keeps times."""
    return round(moment.timestamp() * 1000) if moment else 0


async def create(
    gate: Gate, connection: Connection, sale: str, terms: Terms, *, backlog_limit: int, actor: str
) -> None:
    """Create a draft; raises NameTaken. Repeated after a crash in the middle, it completes."""
    inserted = sales.insert(
        connection,
        sale,
        opens_at=terms.opens_at,
        closes_at=terms.closes_at,
        per_buyer=terms.per_buyer,
        hold_ms=terms.hold_seconds * 1000,
        actor=actor,
    )
    if not inserted and not _half_created(connection, sale):
        raise NameTaken(f"there is, or was, a sale {sale}: choose another name")
    created = await gate.control(
        sale,
        "create",
        actor=actor,
        opens_at=to_ms(terms.opens_at),
        closes_at=to_ms(terms.closes_at),
        per_buyer=terms.per_buyer,
        hold_ms=terms.hold_seconds * 1000,
        backlog_limit=backlog_limit,
    )
    await gate.enter_catalogue(sale)
    await gate.ring([sale])
    if created.outcome is Outcome.SALE_EXISTS:
        raise NameTaken(f"there is a sale {sale} already: choose another name")


def _half_created(connection: Connection, sale: str) -> bool:
    """Whether the ledger has a draft of which no event has come: an earlier `create` may have died before Redis."""
    row = sales.get(connection, sale)
    return row is not None and row.state == "draft" and cursors.read(connection, sale) == Position(1, -1)


async def delete(gate: Gate, connection: Connection, sale: str, *, actor: str) -> Changed:
    """Delete a draft from Redis, then mark it in the ledger; returns the refusal for anything but a draft.

    Repeated after a crash in the middle, it completes.
    """
    try:
        deleted = await gate.control(sale, "delete", actor=actor)
    except (SaleFenced, UnknownSale):
        row = sales.get(connection, sale)
        if row is None or row.state != "draft" or await gate.has_state(sale):
            raise
        deleted = Changed(Outcome.OK, "deleted", True)  # Redis has let it go already
    if deleted.outcome is Outcome.OK:
        await gate.leave_catalogue(sale)
        sales.delete(connection, sale, actor=actor)
    return deleted
