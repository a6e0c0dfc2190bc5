"""gatekeeper worker: everything behind the gate."""

import click

from gatekeeper.settings import Settings


@click.command()
@click.option("--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="Drains side by side.")
def worker(processes: int) -> None:
    """Run controller, ticker and drains until SIGTERM or Ctrl-C. Several workers may run."""
    from workers.supervisor import run

    run(Settings.load(), processes=processes)
