"""gatekeeper export: a sale's reservations, streamed."""

import csv
import json
import sys

import click

from gatekeeper.cli import fail
from gatekeeper.cli.context import json_option, run, sale_argument
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection, reports
from gatekeeper.settings import Settings

COLUMNS = (
    "id",
    "buyer",
    "state",
    "sku",
    "quantity",
    "reference",
    "idempotency_key",
    "payment",
    "created_at",
    "expires_at",
)


@click.command()
@sale_argument
@json_option
def export(sale: str, as_json: bool) -> None:
    """Write the ledger's reservations as CSV, a line per item; with --json a document per line."""

    async def story(gate: Gate, ledger: Connection, settings: Settings) -> None:
        if not reports.exists(ledger, sale):
            fail(f"there is no sale {sale}")
        writer = csv.DictWriter(sys.stdout, COLUMNS, extrasaction="ignore", lineterminator="\n")
        if not as_json:
            writer.writeheader()
        for row in reports.reservations(ledger, sale):
            if as_json:
                click.echo(json.dumps(row, default=str, ensure_ascii=False))
                continue
            times = {name: row[name].isoformat() for name in ("created_at", "expires_at")}
            writer.writerows(row | times | item for item in row["items"])

    run(story)
