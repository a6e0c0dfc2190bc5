"""A sale as both sides have it: Redis for what is decided, the ledger for what is recorded."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from gatekeeper.cli.times import distance, rfc3339, spoken
from gatekeeper.errors import SaleArchived, SaleFenced, UnknownSale
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection, quarantine, reports, sales
from gatekeeper.model import Counters, SaleView
from workers.expire import NAME

ROWS = 20


@dataclass(frozen=True, slots=True)
class Status:
    """What `sale status` shows; `view` is None while the sale is fenced, and `fence` says why."""

    row: sales.SaleRow
    view: SaleView | None
    fence: str
    skus: dict[str, Counters]
    ledger: reports.Overview
    unproven: set[str]
    """SKUs that an event in quarantine names: their counters are no proof of anything."""
    expiry_ms: int
    """When expiry last did its round, ms of Redis's clock; 0 = never."""

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
            "lag_seconds": self.lag_seconds,
            "backlog_full": self.view.backlog_full if self.view else None,
            "next_deadline": rfc3339(self.next_deadline),
            "overdue_seconds": self.overdue_seconds,
            "expiry_heartbeat": rfc3339(moment(self.expiry_ms)),
            "checkpoint": self.checkpoint,
            "totals": {name: sum(getattr(c, name) for c in self.skus.values()) for name in COLUMNS},
            "skus": [
                {"sku": sku, **asdict(counters), "unproven": sku in self.unproven}
                for sku, counters in self.skus.items()
            ],
            "ledger": asdict(self.ledger),
        }

    @property
    def lag_seconds(self) -> float:
        """How long the oldest pending event has been waiting for the ledger; 0 when none is."""
        if not self.view or not self.view.pending_since_ms:
            return 0.0
        return max(0.0, (self.view.now_ms - self.view.pending_since_ms) / 1000)

    @property
    def next_deadline(self) -> datetime | None:
        """When the hold that is due first ends; None without holds."""
        return moment(self.view.deadline_ms) if self.view else None

    @property
    def overdue_seconds(self) -> float:
        """How far the oldest hold is past its deadline; 0 when none is: expiry is up with them."""
        if not self.view or not self.view.deadline_ms:
            return 0.0
        return max(0.0, (self.view.now_ms - self.view.deadline_ms) / 1000)

    @property
    def checkpoint(self) -> dict[str, Any] | None:
        """The newest comparison with the ledger; None before the first."""
        if not self.view or not (found := self.view.checkpoint):
            return None
        at = rfc3339(moment(found.at_ms))
        return {"result": found.result, "position": found.position, "at": at, "skus": found.skus}


def moment(ms: int) -> datetime | None:
    """ms since 1970 as a time; None for 0."""
    return datetime.fromtimestamp(ms / 1000, UTC) if ms else None


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
    except SaleArchived:
        pass  # only its books are left
    unproven, overview = quarantine.skus(ledger, sale), reports.overview(ledger, sale)
    return Status(row, view, fence, skus, overview, unproven, await gate.heartbeat(NAME))


def screen(status: Status, everything: bool) -> RenderableType:
    """Render it for a person."""
    row, view, ledger = status.row, status.view, status.ledger
    state = f"[bold red]fenced[/]: {status.fence}" if status.fence else f"[bold]{view.state if view else row.state}[/]"
    lines = [
        f"{row.sale}  {state}",
        f"opens {spoken(row.opens_at)} · closes {spoken(row.closes_at)} · limit {row.per_buyer or 'none'} per buyer",
        f"ledger {_books(status)} · quarantine {ledger.quarantined} · refunds due {ledger.refunds_due}",
        f"{_holds(status)} · expiry {_ago(moment(status.expiry_ms))} · last checkpoint {_checkpoint(status)}",
        f"{datetime.now(UTC):%H:%M:%S} UTC",
    ]
    return Group(*lines[:4], _table(status, None if everything else ROWS), lines[4])


def _books(status: Status) -> str:
    if status.row.state == "archived":
        return "holds all of it"
    at = f"at {status.ledger.cursor}" if status.ledger.cursor else "has nothing yet"
    if not status.view:
        return f"{at}, pending unknown"
    waiting = f", the oldest for {status.lag_seconds:.1f} s" if status.lag_seconds else ""
    full = " [red]backlog full: admission waits[/]" if status.view.backlog_full else ""
    return f"{at}, {status.view.pending} events pending{waiting}{full}"


def _holds(status: Status) -> str:
    if not status.view:
        return "holds unknown" if status.fence else "no holds"
    if status.overdue_seconds:
        return f"[red]oldest hold overdue by {status.overdue_seconds:.1f} s[/]"
    return f"next hold ends {distance(status.next_deadline)}" if status.next_deadline else "no holds"


def _ago(moment: datetime | None) -> str:
    return f"looked {distance(moment)}" if moment else "[red]never looked[/]"


def _checkpoint(status: Status) -> str:
    if not (found := status.checkpoint):
        return "none" if status.view else "unknown"
    color = "red" if found["result"] == "drift" else "yellow" if found["result"] == "unproven" else "green"
    return f"[{color}]{found['result']}[/] at {found['position']}, {found['at']}"


def _table(status: Status, rows: int | None) -> Table:
    table = Table("SKU", *(name for name in COLUMNS), "", show_footer=len(status.skus) > 1)
    for column, name in zip(table.columns[1:5], COLUMNS, strict=True):
        column.justify = "right"
        column.footer = str(sum(getattr(c, name) for c in status.skus.values()))
    table.columns[0].footer = f"{len(status.skus)} SKUs"
    for sku, counters in list(status.skus.items())[:rows]:
        notes = {"paused": counters.paused, "unproven": sku in status.unproven, "untracked": not counters.tracked}
        note = " ".join(word for word, holds in notes.items() if holds)
        table.add_row(sku, *(str(getattr(counters, name)) for name in COLUMNS), note)
    if rows is not None and len(status.skus) > rows:
        table.add_row(f"… {len(status.skus) - rows} more", "", "", "", "", "--all")
    return table
