"""The command `gatekeeper`: parse, call, print. Data on stdout; progress and problems on stderr.

Exit codes: 0 done, 1 refused or failed, 2 usage, 3 drift.
"""

import json
import sys
from importlib import import_module
from typing import Any, NoReturn

import click

from gatekeeper import __version__
from gatekeeper.errors import GatekeeperError

COMMANDS = {
    "sale": ("gatekeeper.cli.sale", "Create, open, pause, close, watch and archive sales."),
    "stock": ("gatekeeper.cli.stock", "State how many units of each SKU there are."),
    "sku": ("gatekeeper.cli.sku", "Pause and resume single SKUs."),
    "reservations": ("gatekeeper.cli.reservations", "Look into the ledger's reservations; give some back."),
    "refunds": ("gatekeeper.cli.refunds", "Payments that are due back."),
    "quarantine": ("gatekeeper.cli.quarantine", "Events that could not be applied: list, retry, discard."),
    "reconcile": ("gatekeeper.cli.reconcile", "Compare Redis with the ledger, exactly; mend it."),
    "export": ("gatekeeper.cli.export", "Write a sale's reservations to stdout."),
    "serve": ("gatekeeper.cli.serve", "Run the front door."),
    "worker": ("gatekeeper.cli.worker", "Run controller, ticker, expiry, checkpoints, drains."),
    "migrate": ("gatekeeper.cli.migrate", "Bring the ledger's schema up to date."),
    "keys": ("gatekeeper.cli.keys", "Make API keys."),
    "doctor": ("gatekeeper.cli.doctor", "Check everything, and say what to do."),
    "up": ("gatekeeper.cli.up", "Run the whole stack on this machine."),
    "demo": ("gatekeeper.cli.demo", "Run a flash sale and prove its books."),
}


class Commands(click.Group):
    """Imports a command when it is called, and turns every expected error into a sentence and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[name][0]), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GatekeeperError as error:
            fail(str(error))
        except BrokenPipeError:
            sys.exit(1)  # whoever read our output has seen enough
        except Exception as error:
            if type(error).__module__.startswith("psycopg"):
                fail(f"Postgres: {str(error).strip().splitlines()[0]}. See `gatekeeper doctor`")
            raise


def fail(message: str) -> NoReturn:
    """Say on stderr what went wrong, in the form that was asked for, and exit with 1."""
    wants_json = "--json" in sys.argv
    click.echo(json.dumps({"error": message}) if wants_json else f"error: {message}", err=True)
    sys.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Gatekeeper: a flash-sale gate that never oversells."""
