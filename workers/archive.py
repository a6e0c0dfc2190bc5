"""Archive a sale that is over: once the ledger provably holds everything, free its memory in Redis.

A tombstone stays, so that whoever comes late hears that the sale is over.
"""

from dataclasses import asdict, dataclass

from gatekeeper.errors import GatekeeperError, SaleArchived
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection, cursors, quarantine, reports, sales
from gatekeeper.model import SaleView
from gatekeeper.outcomes import Outcome
from workers.reconcile import reconcile


class NotArchivable(GatekeeperError):
    """Something of the sale is still open, or the ledger does not hold all of it."""


@dataclass(frozen=True, slots=True)
class Freed:
    """What an archived sale no longer takes up in Redis; zeros when it had been archived before."""

    reservations: int = 0
    skus: int = 0
    events: int = 0
    bytes: int = 0
    """As Redis estimates them."""


async def archive(gate: Gate, connection: Connection, sale: str, *, keep: int, actor: str) -> Freed:
    """Prove and remove; raises NotArchivable saying what is open. Repeated after a crash, it completes."""
    try:
        view = await gate.availability(sale, limit=1)
    except SaleArchived:
        _mark(connection, sale, actor)
        return Freed()
    assert isinstance(view, SaleView)
    if view.state != "closed":
        raise NotArchivable(f"{sale} is {view.state}: `gatekeeper sale close {sale}` first")
    if view.deadline_ms:
        raise NotArchivable(f"{sale} has holds: they expire by themselves, or `gatekeeper reservations release`")
    report = await reconcile(gate, connection, sale, keep=keep)
    if report.drift:
        raise NotArchivable(f"Redis and the ledger differ: see `gatekeeper reconcile {sale}`")
    freed = Freed(*await gate.footprint(sale))
    with connection.transaction():
        cursor = cursors.lock(connection, sale)
        _check(connection, sale)
        if freed.reservations != sales.reservation_count(connection, sale):
            raise NotArchivable(f"Redis and the ledger know different numbers of reservations of {sale}")
        done = await gate.control(sale, "archive", actor=actor, last_id=str(cursor))
        if done.outcome is Outcome.NOT_CLOSED:
            raise NotArchivable(
                f"{sale} is not closed, or has holds: `gatekeeper sale close {sale}`, then wait for them"
            )
        if done.outcome is not Outcome.OK:
            raise NotArchivable(f"something happened to {sale} meanwhile ({done.outcome}): try again")
        sales.archive(connection, sale, actor=actor, detail=asdict(freed))
    return freed


def _check(connection: Connection, sale: str) -> None:
    if rows := quarantine.events(connection, sale):
        raise NotArchivable(f"{len(rows)} events of {sale} are in quarantine: `gatekeeper quarantine list {sale}`")
    if due := reports.refunds_due(connection, sale):
        raise NotArchivable(f"{due} payments of {sale} are due back: `gatekeeper refunds list {sale}`")


def _mark(connection: Connection, sale: str, actor: str) -> None:
    """Complete what a crash left half done."""
    row = sales.get(connection, sale)
    if row and row.state != "archived":
        with connection.transaction():
            cursors.lock(connection, sale)
            sales.archive(connection, sale, actor=actor, detail={})
