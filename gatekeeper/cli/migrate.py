"""gatekeeper migrate: the ledger's schema."""

import click

from gatekeeper.cli.context import emit, json_option, out
from gatekeeper.ledger import migrate as bring_up_to_date
from gatekeeper.settings import Settings


@click.command()
@json_option
def migrate(as_json: bool) -> None:
    """Bring the ledger's schema up to date; again, it does nothing."""
    applied = bring_up_to_date(Settings.load().require("database_url").database_url)
    if as_json:
        emit({"applied": applied})
    else:
        out.print(f"applied {', '.join(applied)}" if applied else "up to date")
