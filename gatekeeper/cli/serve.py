"""gatekeeper serve: the front door."""

import sys

import click

from gatekeeper.settings import Settings


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: a free one.")
@click.option("--workers", type=click.IntRange(1, 128), default=1, show_default=True, help="Processes; one per core.")
@click.option("--fast-lane/--no-fast-lane", default=True, help="Purchases skip ASGI; off: to compare, or to debug.")
def serve(host: str, port: int, workers: int, fast_lane: bool) -> None:
    """Run the front door until SIGTERM or Ctrl-C."""
    from gatekeeper.http.serve import serve as run

    sys.exit(run(Settings.load(), host=host, port=port, workers=workers, fast_lane=fast_lane))
