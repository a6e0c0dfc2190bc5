"""gatekeeper reconcile: both sides, compared at the same position."""

import sys
from dataclasses import asdict
from typing import Any

import click
from rich.progress import Progress
from rich.table import Table

from gatekeeper.cli.context import actor, confirm, emit, err, json_option, out, run, sale_argument
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection
from gatekeeper.ledger.checkpoints import ALL_BUYERS
from gatekeeper.settings import Settings
from workers.reconcile import Report
from workers.reconcile import reconcile as compare
from workers.repair import Repaired
from workers.repair import repair as mend

DRIFT = 3
COUNTERS = ("available", "held", "sold", "granted")


@click.command()
@sale_argument
@click.option("--repair", is_flag=True, help="Fence the sale, write Redis anew from the ledger, open a new epoch.")
@click.option("--set-aside", is_flag=True, help="With --repair: give up what an outbox with a gap has, but keep it.")
@click.option("--yes", is_flag=True, help="Do not ask before a repair.")
@json_option
def reconcile(sale: str, repair: bool, set_aside: bool, yes: bool, as_json: bool) -> None:
    """Compare every SKU in Redis and the ledger while the sale runs. Exit 3: drift."""
    if set_aside and not repair:
        raise click.UsageError("--set-aside goes with --repair")
    if repair:
        confirm(sale, "repair", yes)
        _repair(sale, set_aside, as_json)
        return

    async def story(gate: Gate, ledger: Connection, settings: Settings) -> Report:
        with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
            task = bar.add_task("checkpoints", total=None)
            return await compare(
                gate, ledger, sale, keep=settings.keep_events, progress=lambda skus: bar.update(task, completed=skus)
            )

    report = run(story)
    if as_json:
        position = str(report.position) if report.position else None
        emit(
            {
                "sale": sale,
                "skus_compared": report.skus_compared,
                "position": position,
                "drift": report.drift,
                "unproven": report.unproven,
            }
        )
    else:
        out.print(f"{report.skus_compared} SKUs compared at {report.position}: {len(report.drift)} differ")
        for sku in report.unproven:
            out.print(f"{sku}: unproven, an event in quarantine names it (`gatekeeper quarantine list {sale}`)")
        if report.drift:
            out.print(_table(report.drift))
            err.print(
                "a SKU of which Redis has more than the ledger is paused; docs/operations.md, `drift`, says what to do"
            )
    if report.drift:
        sys.exit(DRIFT)


def _repair(sale: str, set_aside: bool, as_json: bool) -> None:
    async def story(gate: Gate, ledger: Connection, settings: Settings) -> Repaired:
        with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
            task = bar.add_task("reservations", total=None)
            return await mend(
                gate,
                ledger,
                sale,
                keep=settings.keep_events,
                backlog_limit=settings.backlog_limit,
                actor=actor(),
                set_aside=set_aside,
                progress=lambda count: bar.update(task, completed=count),
            )

    done = run(story)
    if as_json:
        emit({"sale": sale, **asdict(done)})
        return
    out.print(f"{sale} was written anew from the ledger: epoch {done.epoch}, {done.reservations} reservations", end="")
    out.print(f" (Redis had {done.reservations_before})" if done.reservations != done.reservations_before else "")
    out.print(f"SKUs that were different: {', '.join(done.skus[:20]) or 'none'}{' …' if len(done.skus) > 20 else ''}")
    out.print(f"SKUs that were paused stay so: gatekeeper sale status {sale}")


def _table(drift: list[dict[str, Any]]) -> Table:
    table = Table("SKU", *(f"{name} Redis / ledger" for name in COUNTERS), "")
    for entry in drift:
        note = "unproven" if entry["unproven"] else ""
        if entry["sku"] == ALL_BUYERS:
            units = f"[red]{entry['redis']['units']} / {entry['ledger']['units']}[/]"
            table.add_row("(all buyers)", "", units, "", "", f"units held or sold {note}")
            continue
        pairs = ((entry["redis"][name], entry["ledger"][name]) for name in COUNTERS)
        cells = (str(a) if a == b else f"[red]{a} / {b}[/]" for a, b in pairs)
        table.add_row(entry["sku"], *cells, note)
    return table
