"""A sale as both sides have it: Redis for what is decided, the ledger for what is recorded."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from gatekeeper.cli.times import distance, rfc3339, spoken
from gatekeeper.errors import SaleFenced, UnknownSale
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection, reports, sales
from gatekeeper.model import Counters, SaleView

ROWS = 20


@dataclass(frozen=True, slots=True)
class Status:
    """What `sale status` shows; `view` is None while the sale is fenced, and `fence` says why."""

    row: sales.SaleRow
    view: SaleView | None
    fence: str
    skus: dict[str, Counters]
    ledger: reports.Overview

    def as_dict(self) -> dict[str, Any]:
        """The same for programs."""
        opens, closes = self.row.opens_at, self.row.closes_at
        return {
            "sale": self.row.sale,
            "state": self.view.state if self.view else self.row.state,
            "fence": self.fence or None,
            "opens_at": rfc3339(opens),
            "closes_at": rfc3339(closes),
            "pending": self.view.pending if self.view else None,
            "totals": {name: sum(getattr(c, name) for c in self.skus.values()) for name in COLUMNS},
            "skus": [{"sku": sku, **asdict(counters)} for sku, counters in self.skus.items()],
            "ledger": asdict(self.ledger) | {"oldest_hold": rfc3339(self.ledger.oldest_hold)},
        }


COLUMNS = ("available", "held", "sold", "granted")


async def read_status(gate: Gate, ledger: Connection, sale: str) -> Status:
    """Read both sides; raises UnknownSale."""
    row = sales.get(ledger, sale)
    if row is None:
        raise UnknownSale(f"there is no sale {sale}; `gatekeeper sale list` shows those that there are")
    view, fence, skus = None, "", {}
    try:
        after = ""
        while True:
            page = await gate.availability(sale, after=after, limit=1000)
            assert isinstance(page, SaleView)
            view, after = page, page.next
            skus.update(page.skus)
            if not after:
                break
    except SaleFenced as error:
        fence = str(error)
    return Status(row, view, fence, skus, reports.overview(ledger, sale))


def screen(status: Status, everything: bool) -> RenderableType:
    """Render it for a person."""
    row, view, ledger = status.row, status.view, status.ledger
    state = f"[bold red]fenced[/]: {status.fence}" if status.fence else f"[bold]{view.state if view else row.state}[/]"
    lines = [
        f"{row.sale}  {state}",
        f"opens {spoken(row.opens_at)} · closes {spoken(row.closes_at)} · limit {row.per_buyer or 'none'} per buyer",
        f"ledger at {ledger.cursor}, {view.pending if view else '?'} events to come"
        f" · {ledger.reservations} reservations"
        f" · oldest hold {distance(ledger.oldest_hold) if ledger.oldest_hold else 'none'}",
        f"last checkpoint {ledger.checkpoint or 'none'} · quarantine {ledger.quarantined}",
        f"{datetime.now(UTC):%H:%M:%S} UTC",
    ]
    return Group(*lines[:4], _table(status, None if everything else ROWS), lines[4])


def _table(status: Status, rows: int | None) -> Table:
    table = Table("SKU", *(name for name in COLUMNS), "", show_footer=len(status.skus) > 1)
    for column, name in zip(table.columns[1:5], COLUMNS, strict=True):
        column.justify = "right"
        column.footer = str(sum(getattr(c, name) for c in status.skus.values()))
    table.columns[0].footer = f"{len(status.skus)} SKUs"
    for sku, counters in list(status.skus.items())[:rows]:
        note = ("paused " if counters.paused else "") + ("" if counters.tracked else "untracked")
        table.add_row(sku, *(str(getattr(counters, name)) for name in COLUMNS), note)
    if rows is not None and len(status.skus) > rows:
        table.add_row(f"… {len(status.skus) - rows} more", "", "", "", "", "--all")
    return table
