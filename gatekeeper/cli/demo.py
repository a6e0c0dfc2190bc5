"""gatekeeper demo: a flash sale on this machine, and the proof of its books."""

import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from gatekeeper.cli.context import command, emit, err, out
from gatekeeper.demo.crowd import CONNECTIONS, requests_of
from gatekeeper.demo.story import Outcome, at_the_gate, at_the_naive_shop
from gatekeeper.embedded import free_port
from gatekeeper.settings import Settings
from gatekeeper.stack import Stack

BAR = 50
"""Width of the picture, characters."""


@click.command()
@click.option("--buyers", type=click.IntRange(1, 50_000), default=5000, show_default=True)
@click.option("--stock", "units", type=click.IntRange(1, 50_000), default=100, show_default=True)
@click.option("--keep", is_flag=True, help="Leave the stack running until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def demo(buyers: int, units: int, keep: bool, as_json: bool) -> None:
    """Send a crowd at a naive shop and at the gate. Exit 0: the gate sold each unit once, and its books agree."""
    signal.signal(signal.SIGTERM, _interrupt)
    folder = Path(tempfile.mkdtemp(prefix="gatekeeper-demo-"))
    folder.chmod(0o755)  # Postgres, which does not run as root, must enter it
    unset = replace(Settings.load(), redis_url="", database_url="")
    stack = Stack(folder, free_port(), say=lambda line: err.print(line, markup=False), settings=unset)
    try:
        stack.start()
        outcome = asyncio.run(_run(stack, buyers, units))
        emit(outcome.as_dict()) if as_json else _show(outcome)
        if keep:
            _keep(stack)
    except KeyboardInterrupt:
        err.print("stopped")
        sys.exit(1)
    finally:
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if outcome.proven else 1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


async def _run(stack: Stack, buyers: int, units: int) -> Outcome:
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err) as bars:

        def bar(title: str, total: int = requests_of(buyers)) -> Callable[[int], None]:
            task = bars.add_task(title, total=total)
            return lambda done: bars.update(task, completed=done)

        naive = await at_the_naive_shop(stack, buyers, units, bar("check, then decrement"))
        gate = await at_the_gate(stack, buyers, units, bar("the gate"), bar("paid, at the gate", units))
    return Outcome(naive, *gate)


def _show(outcome: Outcome) -> None:
    naive, gate = outcome.naive, outcome.gate
    scale = BAR / max(gate.stock, naive.sold, gate.sold)
    out.print()
    for name, sold in (("stock", gate.stock), ("check, then decrement", naive.sold), ("the gate", gate.sold)):
        within, beyond = round(min(sold, gate.stock) * scale), round(max(0, sold - gate.stock) * scale)
        out.print(f"  {name:22} [green]{'█' * within}[/][red]{'█' * beyond}[/] {sold}")
    out.print(_table(outcome))
    out.print(_lives(outcome))
    if outcome.proven:
        out.print(f"{gate.buyers} buyers over {CONNECTIONS} connections, duplicates and retries among them.")
        out.print(
            f"[green]✓[/] {gate.sold} of {gate.stock} units sold, each once; every payment is a sale or refunded;"
        )
        out.print("  buyers, payment service, Redis and ledger agree.")
    else:
        out.print("[red]✗[/] the books do not agree: this is a bug, please report it")
    out.print("next: [bold]make up[/] (or gatekeeper up) keeps a stack running; the README shows a sale of your own.")


def _table(outcome: Outcome) -> Table:
    naive, gate = outcome.naive, outcome.gate
    table = Table("", "check, then decrement", "the gate")
    table.add_row("sold", str(naive.sold), str(gate.sold))
    table.add_row("oversold", f"[red]{naive.oversold}[/]" if naive.oversold else "0", str(gate.oversold))
    table.add_row("duplicates", f"{naive.sold_again} sold again", f"{gate.duplicates} refused")
    table.add_row("offered/s", "-", f"{gate.offered_per_s:.0f}")
    table.add_row("admitted/s", "-", f"{gate.admitted_per_s:.0f}")
    table.add_row("persisted/s", "-", f"{gate.persisted_per_s:.0f}")
    table.add_row("p50 / p99", "-", f"{gate.p50_ms:.0f} / {gate.p99_ms:.0f} ms")
    table.add_row("ledger = Redis", "-", f"{outcome.payments.sold} = {outcome.counters.sold} sold")
    table.add_row("drift", "-", str(gate.drift))
    return table


def _lives(outcome: Outcome) -> Table:
    paid = outcome.payments
    table = Table("what became of the reservations and the money", "")
    table.columns[1].justify = "right"
    table.add_row("reservations", str(outcome.acknowledged))
    table.add_row("paid: sold, late ones among them", str(paid.sold))
    table.add_row("charge declined: released, sold to the next in line", str(paid.released))
    table.add_row("not paid in time: expired, sold to the next in line", str(paid.expired))
    table.add_row("paid too late: refunded", str(paid.refund_due))
    table.add_row("unresolved", f"[red]{paid.unresolved}[/]" if paid.unresolved else "0")
    return table


def _keep(stack: Stack) -> None:
    known = stack.description()
    err.print(f"the stack runs at {known['url']} until Ctrl-C. In a second terminal:")
    for name in ("redis_url", "database_url"):
        err.print(f"  export GATEKEEPER_{name.upper()}={known[name]}", markup=False, soft_wrap=True)
    err.print(f"  {command()} sale status demo", markup=False)
    try:
        while True:
            time.sleep(0.5)
            stack.look_after()
    except KeyboardInterrupt:
        err.print("stopping")
