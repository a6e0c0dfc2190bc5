"""gatekeeper quarantine: events that could not be applied."""

from dataclasses import asdict

import click
from rich.table import Table

from gatekeeper.cli.context import emit, json_option, out, run
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection
from gatekeeper.ledger import quarantine as ledger_quarantine
from gatekeeper.ledger.quarantine import Quarantined
from gatekeeper.settings import Settings


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
