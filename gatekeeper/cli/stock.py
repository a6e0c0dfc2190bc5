"""gatekeeper stock: state capacities."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress
from rich.table import Table

from gatekeeper.cli import fail
from gatekeeper.cli.context import actor, emit, err, json_option, out, run, sale_argument
from gatekeeper.errors import InvalidInput, UnknownSale
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection
from gatekeeper.ledger import sales as ledger_sales
from gatekeeper.ledger import stock as ledger_stock
from gatekeeper.ledger.stock import StockRow
from gatekeeper.merchant import stock as merchant
from gatekeeper.merchant.stock import Change, Stated, Wanted
from gatekeeper.merchant.stockfile import BadFile, parse
from gatekeeper.model import MAX_INT
from gatekeeper.replies import Lacking
from gatekeeper.settings import Settings

ROWS = 20


@click.group()
def stock() -> None:
    """State how many units of each SKU there are."""


@stock.command()
@sale_argument
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True, dir_okay=False))
@click.option("--dry-run", is_flag=True, help="Show now, file and change; do nothing.")
@json_option
def load(sale: str, file: Path, dry_run: bool, as_json: bool) -> None:
    """Bring every SKU of FILE (sku,quantity[,tracked]; - is stdin) to its stated capacity."""
    wanted = _read(file, as_json)

    async def story(gate: Gate, ledger: Connection, settings: Settings) -> Stated:
        _must_exist(ledger, sale)
        if dry_run:
            return Stated(merchant.compare(ledger_stock.rows(ledger, sale), wanted), [])
        with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
            task = bar.add_task("granting", total=len(wanted))
            return await merchant.state(
                gate,
                ledger,
                sale,
                lambda _: wanted,
                actor=actor(),
                progress=lambda done: bar.update(task, completed=done),
            )

    _report(run(story), dry_run, as_json)


@stock.command()
@sale_argument
@click.argument("sku")
@click.option("--by", type=int, required=True, help="Units to add; negative: to take back.")
@click.option("--reason", required=True, help="For the books.")
@json_option
def adjust(sale: str, sku: str, by: int, reason: str, as_json: bool) -> None:
    """Change one SKU's capacity by some units."""
    if not reason.isprintable():
        raise InvalidInput("reason: expected printable text")

    def wanted(rows: dict[str, StockRow]) -> list[Wanted]:
        if sku not in rows or not rows[sku].tracked:
            raise InvalidInput(f"sku {sku}: expected a tracked SKU of {sale}; `gatekeeper sale status` shows them")
        if not 0 <= rows[sku].capacity + by <= MAX_INT:
            raise InvalidInput(
                f"by {by}: the capacity of {sku} is {rows[sku].capacity} and must stay within 0..{MAX_INT}"
            )
        return [Wanted(sku, rows[sku].capacity + by)]

    async def story(gate: Gate, ledger: Connection, settings: Settings) -> Stated:
        _must_exist(ledger, sale)
        return await merchant.state(gate, ledger, sale, wanted, actor=actor(), reason=reason)

    _report(run(story), False, as_json)


def _read(file: Path, as_json: bool) -> list[Wanted]:
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{file}: {error.strerror}") from None
    try:
        return parse(data)
    except BadFile as bad:
        if as_json:
            emit({"faults": [{"line": fault.line, "problem": fault.problem} for fault in bad.faults]}, to_stderr=True)
        else:
            err.print(str(bad), markup=False, soft_wrap=True)
        raise InvalidInput(
            f"{file}: {len(bad.faults)} bad line{'s'[: len(bad.faults) > 1]}; nothing was loaded"
        ) from None


def _must_exist(ledger: Connection, sale: str) -> None:
    row = ledger_sales.get(ledger, sale)
    if row is None or row.state == "deleted":
        raise UnknownSale(f"there is no sale {sale}: create it with `gatekeeper sale create {sale}`")


def _report(stated: Stated, dry_run: bool, as_json: bool) -> None:
    refused = {lacking.sku for lacking in stated.refused}
    counts = Counter("refused" if change.sku in refused else _kind(change) for change in stated.changes)
    summary = {kind: counts[kind] for kind in ("new", "raised", "lowered", "unchanged", "refused")}
    if as_json:
        emit({"dry_run": dry_run, **summary, "changes": _rows(stated), "refusals": [_least(r) for r in stated.refused]})
    else:
        moving = [change for change in stated.changes if not change.unchanged]
        if moving:
            out.print(_table(moving))
        out.print(" · ".join(f"{count} {kind}" for kind, count in summary.items()) + (" (dry run)" if dry_run else ""))
    if stated.refused:
        for least in [] if as_json else map(_least, stated.refused):
            err.print(
                f"{least['sku']}: {least['held']} held and {least['sold']} sold; lowest possible: {least['lowest']}"
            )
        fail(f"{len(refused)} SKUs could not be lowered that far")


def _kind(change: Change) -> str:
    if change.unchanged:
        return "unchanged"
    if change.now is None:
        return "new"
    return "raised" if change.delta > 0 else "lowered"


def _rows(stated: Stated) -> list[dict[str, Any]]:
    return [
        {"sku": c.sku, "now": c.now, "file": c.stated, "change": c.delta} for c in stated.changes if not c.unchanged
    ]


def _least(lacking: Lacking) -> dict[str, Any]:
    return {
        "sku": lacking.sku,
        "held": lacking.held,
        "sold": lacking.sold,
        "lowest": lacking.held + lacking.sold,
    }


def _table(changes: list[Change]) -> Table:
    table = Table("SKU", "now", "file", "change")
    for change in changes[:ROWS]:
        now = "new" if change.now is None else str(change.now)
        table.add_row(change.sku, now, str(change.stated) if change.tracked else "untracked", f"{change.delta:+}")
    if len(changes) > ROWS:
        table.add_row(f"… {len(changes) - ROWS} more", "", "", "")
    return table
