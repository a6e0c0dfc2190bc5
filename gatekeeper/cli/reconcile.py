"""gatekeeper reconcile: both sides, compared at the same position."""

import sys
from typing import Any

import click
from rich.progress import Progress
from rich.table import Table

from gatekeeper.cli.context import emit, err, json_option, out, run, sale_argument
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection
from gatekeeper.settings import Settings
from workers.reconcile import Report
from workers.reconcile import reconcile as compare

DRIFT = 3
COUNTERS = ("available", "held", "sold", "granted")


@click.command()
@sale_argument
@json_option
def reconcile(sale: str, as_json: bool) -> None:
    """Compare every SKU in Redis and the ledger while the sale runs. Exit 3: drift."""

    async def story(gate: Gate, ledger: Connection, settings: Settings) -> Report:
        with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
            task = bar.add_task("checkpoints", total=None)
            return await compare(
                gate, ledger, sale, keep=settings.keep_events, progress=lambda skus: bar.update(task, completed=skus)
            )

    report = run(story)
    if as_json:
        position = str(report.position) if report.position else None
        emit({"sale": sale, "skus_compared": report.skus_compared, "position": position, "drift": report.drift})
    else:
        out.print(f"{report.skus_compared} SKUs compared at {report.position}: {len(report.drift)} differ")
        if report.drift:
            out.print(_table(report.drift))
            err.print("a SKU of which Redis has more than the ledger is paused; see `gatekeeper quarantine list`")
    if report.drift:
        sys.exit(DRIFT)


def _table(drift: list[dict[str, Any]]) -> Table:
    table = Table("SKU", *(f"{name} Redis / ledger" for name in COUNTERS), "")
    for entry in drift:
        pairs = ((entry["redis"][name], entry["ledger"][name]) for name in COUNTERS)
        cells = (str(a) if a == b else f"[red]{a} / {b}[/]" for a, b in pairs)
        table.add_row(entry["sku"], *cells, "unproven" if entry["unproven"] else "")
    return table
