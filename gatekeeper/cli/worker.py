"""gatekeeper worker: everything behind the gate."""

import click

from gatekeeper.settings import Settings


@click.command()
@click.option("--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="Drains side by side.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=0, help="Serve /metrics there; 0: nowhere.")
def worker(processes: int, metrics_port: int) -> None:
    """Run controller, ticker and drains until SIGTERM or Ctrl-C. Several workers may run."""
    from workers.supervisor import run

    run(Settings.load(), processes=processes, metrics_port=metrics_port)
