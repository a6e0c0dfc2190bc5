"""gatekeeper sale: create, change and look at sales."""

import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any

import click
from rich.live import Live

from gatekeeper.cli.context import actor, confirm, emit, json_option, load_settings, out, run, run_gate, sale_argument
from gatekeeper.cli.refusals import accepted
from gatekeeper.cli.status import Status, read_status, screen
from gatekeeper.cli.times import Moment, rfc3339, spoken
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection, sales
from gatekeeper.merchant import sales as merchant
from gatekeeper.merchant.sales import Terms, to_ms
from gatekeeper.model import MAX_INT
from gatekeeper.settings import Settings
from workers.archive import Freed
from workers.archive import archive as bury

units = click.IntRange(0, MAX_INT)
seconds = click.IntRange(1, 7 * 24 * 3600)


@click.group()
def sale() -> None:
    """Create, open, pause, close and watch sales."""


@sale.command()
@sale_argument
@click.option("--opens-at", type=Moment(), help="With an offset; default: when you open it.")
@click.option("--closes-at", type=Moment(), help="With an offset; default: when you close it.")
@click.option("--per-buyer", type=units, default=0, help="Units one buyer may have; 0: no limit.")
@click.option("--hold-seconds", type=seconds, default=300, show_default=True, help="How long a hold lasts unpaid.")
@json_option
def create(
    sale: str, opens_at: datetime | None, closes_at: datetime | None, per_buyer: int, hold_seconds: int, as_json: bool
) -> None:
    """Create a draft. Then load its stock, and open it."""
    terms = Terms(opens_at=opens_at, closes_at=closes_at, per_buyer=per_buyer, hold_seconds=hold_seconds)

    async def story(gate: Gate, ledger: Connection, settings: Settings) -> None:
        await merchant.create(gate, ledger, sale, terms, backlog_limit=settings.backlog_limit, actor=actor())

    run(story)
    if as_json:
        emit({"sale": sale, "state": "draft", **_terms(terms)})
        return
    out.print(f"created {sale} (draft)")
    out.print(f"  opens   {spoken(opens_at)}\n  closes  {spoken(closes_at)}")
    out.print(f"  limit   {per_buyer or 'none'} per buyer\n  holds   {hold_seconds} s")
    out.print(f"next: gatekeeper stock load {sale} FILE.csv, then gatekeeper sale open {sale}")


def _terms(terms: Terms) -> dict[str, Any]:
    return asdict(terms) | {"opens_at": rfc3339(terms.opens_at), "closes_at": rfc3339(terms.closes_at)}


@sale.command()
@sale_argument
@click.option("--opens-at", type=Moment(), help="With an offset.")
@click.option("--closes-at", type=Moment(), help="With an offset.")
@click.option("--per-buyer", type=units, help="Units one buyer may have; 0: no limit.")
@click.option("--hold-seconds", type=seconds, help="For holds from now on.")
@json_option
def update(
    sale: str,
    opens_at: datetime | None,
    closes_at: datetime | None,
    per_buyer: int | None,
    hold_seconds: int | None,
    as_json: bool,
) -> None:
    """Change settings of a sale that is not closed."""
    given = {
        "opens_at": to_ms(opens_at) if opens_at else None,
        "closes_at": to_ms(closes_at) if closes_at else None,
        "per_buyer": per_buyer,
        "hold_ms": hold_seconds * 1000 if hold_seconds else None,
    }
    fields = {name: value for name, value in given.items() if value is not None}
    if not fields:
        raise click.UsageError("nothing to change: give at least one of the options")
    _control(sale, "update", as_json, **fields)


def _control(name: str, action: str, as_json: bool, **fields: str | int) -> None:
    async def story(gate: Gate) -> tuple[str, bool]:
        changed = accepted(name, await gate.control(name, action, actor=actor(), **fields))
        await gate.ring([name])
        return changed.state, changed.changed

    state, changed = run_gate(story)
    if as_json:
        emit({"sale": name, "state": state, "changed": changed})
    else:
        out.print(f"{name} is {state}" + ("" if changed else " (it was so already)"))


def _mover(action: str, summary: str) -> Callable[..., None]:
    @sale.command(action, help=summary)
    @sale_argument
    @json_option
    def command(sale: str, as_json: bool) -> None:
        _control(sale, action, as_json)

    return command


_mover("open", "Open a draft: it sells from now on, or from its --opens-at.")
_mover("pause", "Stop admissions; retries and reads go on.")
_mover("resume", "Let a paused sale sell on.")


@sale.command()
@sale_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def close(sale: str, yes: bool, as_json: bool) -> None:
    """End a sale for good."""
    confirm(sale, "close", yes)
    _control(sale, "close", as_json)


@sale.command()
@sale_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def archive(sale: str, yes: bool, as_json: bool) -> None:
    """Free a closed, settled sale's memory in Redis, once the ledger provably holds everything. For good."""
    confirm(sale, "archive", yes)

    async def story(gate: Gate, ledger: Connection, settings: Settings) -> Freed:
        return await bury(gate, ledger, sale, keep=settings.keep_events, actor=actor())

    freed = run(story)
    if as_json:
        emit({"sale": sale, "state": "archived", "freed": asdict(freed)})
        return
    out.print(f"archived {sale}: its books stay in the ledger")
    counts = f"{freed.reservations} reservations, {freed.skus} SKUs, {freed.events} events"
    out.print(f"freed in Redis: {counts}, about {freed.bytes / 1024:.0f} KiB")


@sale.command()
@sale_argument
@json_option
def delete(sale: str, as_json: bool) -> None:
    """Delete a draft. Its name is never used again."""

    async def story(gate: Gate, ledger: Connection, settings: Settings) -> None:
        accepted(sale, await merchant.delete(gate, ledger, sale, actor=actor()))

    run(story)
    emit({"sale": sale, "state": "deleted"}) if as_json else out.print(f"deleted {sale}")


@sale.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List all sales, newest first."""

    async def story(gate: Gate, ledger: Connection, settings: Settings) -> list[sales.SaleRow]:
        return sales.rows(ledger)

    rows = run(story)
    if as_json:
        emit([{"sale": r.sale, "state": r.state, "opens_at": rfc3339(r.opens_at)} for r in rows])
    for row in [] if as_json else rows:
        out.print(f"{row.sale:30} {row.state:8} opens {spoken(row.opens_at)}")
    if not rows and not as_json:
        out.print("no sales yet: gatekeeper sale create NAME")


@sale.command()
@sale_argument
@click.option("--watch", is_flag=True, help="Look again every second, until Ctrl-C.")
@click.option("--all", "everything", is_flag=True, help="Every SKU, not the first 20.")
@json_option
def status(sale: str, watch: bool, everything: bool, as_json: bool) -> None:
    """Show a sale as Redis and the ledger have it."""
    load_settings()

    def look() -> Status:
        return run(lambda gate, ledger, settings: read_status(gate, ledger, sale))

    if not watch:
        found = look()
        emit(found.as_dict()) if as_json else out.print(screen(found, everything))
        return
    with Live(screen(look(), everything), console=out, auto_refresh=False) as live:
        try:
            while True:
                time.sleep(1)
                live.update(screen(look(), everything), refresh=True)
        except KeyboardInterrupt:
            return
