"""gatekeeper quarantine: events that could not be applied."""

from dataclasses import asdict

import click
from rich.table import Table

from gatekeeper.cli.context import actor, confirm, emit, json_option, out, run, sale_argument
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection
from gatekeeper.ledger import quarantine as ledger_quarantine
from gatekeeper.ledger.quarantine import Quarantined
from gatekeeper.model import Position
from gatekeeper.settings import Settings
from workers import quarantine as care
from workers.quarantine import Discarded


def _position(ctx: click.Context, param: click.Parameter, value: str) -> Position:
    try:
        return Position.parse(value)
    except ValueError:
        raise click.BadParameter("expected an event's position, such as 1-4711") from None


@click.group()
def quarantine() -> None:
    """Events that could not be applied, and their dependants."""


@quarantine.command("list")
@click.argument("sale", required=False)
@json_option
def list_(sale: str | None, as_json: bool) -> None:
    """List what is in quarantine, of one SALE or of all."""

    async def story(gate: Gate, ledger: Connection, settings: Settings) -> list[tuple[str, Quarantined]]:
        return ledger_quarantine.rows(ledger, sale)

    rows = run(story)
    if as_json:
        emit([{"sale": name, **asdict(row), "position": str(row.position)} for name, row in rows])
        return
    if not rows:
        out.print("nothing is in quarantine")
        return
    table = Table("sale", "event", "reason", "reservation", "SKUs (paused)")
    for name, row in rows:
        table.add_row(name, str(row.position), row.reason, row.reservation or "?", ", ".join(row.skus) or "the sale")
    out.print(table)


@quarantine.command()
@sale_argument
@json_option
def retry(sale: str, as_json: bool) -> None:
    """Apply what can be applied now, in order; the rest stays."""

    async def story(gate: Gate, ledger: Connection, settings: Settings) -> tuple[int, int, list[str]]:
        return await care.retry(gate, ledger, sale)

    applied, left, paused = run(story)
    if as_json:
        emit({"sale": sale, "applied": applied, "left": left, "paused_skus": paused})
        return
    out.print(f"{applied} applied, {left} left")
    _say_paused(sale, paused)


@quarantine.command()
@sale_argument
@click.argument("event", callback=_position)
@click.option("--reason", required=True, help="Kept in the audit.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def discard(sale: str, event: Position, reason: str, yes: bool, as_json: bool) -> None:
    """Give up an EVENT (as `list` names it), and undo its reservation on both sides: the units are available again."""
    confirm(sale, "discard an event of", yes)

    async def story(gate: Gate, ledger: Connection, settings: Settings) -> Discarded:
        return await care.discard(gate, ledger, sale, event, reason, keep=settings.keep_events, actor=actor())

    done = run(story)
    if as_json:
        emit({"sale": sale, **asdict(done)})
        return
    if done.needs_repair:
        out.print(f"reservation {done.reservation} is {done.state} in the ledger; Redis does not answer for the sale")
        out.print(f"next: gatekeeper reconcile {sale} --repair")
    elif done.reservation:
        out.print(f"reservation {done.reservation} is {done.state} on both sides")
    else:
        out.print("discarded; it names no reservation that Redis has")
        out.print(f"if both sides differ now: gatekeeper reconcile {sale} --repair")
    if done.refunds_due:
        out.print(f"its payment is due back: gatekeeper refunds list {sale}")
    _say_paused(sale, done.paused_skus)


def _say_paused(sale: str, skus: list[str]) -> None:
    for sku in skus:
        out.print(f"{sku} is paused, and nothing in quarantine names it: gatekeeper sku resume {sale} {sku}")
