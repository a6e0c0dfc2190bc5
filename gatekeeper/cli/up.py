"""gatekeeper up: the whole stack on this machine."""

import errno
import signal
import socket
import threading
from pathlib import Path

import click

from gatekeeper.cli.context import command, emit, err, out, running_stack, state_dir
from gatekeeper.stack import Stack, StackError, announce

LOOK = 0.5
"""Seconds between looks at the children."""


@click.command()
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Default: a per-user state folder.")
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True)
@click.option("--workers", type=click.IntRange(1, 128), default=1, show_default=True, help="Front door processes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line on stdout when ready.")
def up(data: Path | None, port: int, workers: int, as_json: bool) -> None:
    """Run Valkey, Postgres, worker and front door until Ctrl-C or SIGTERM; data is kept."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _refuse_busy(port)
    stack = Stack((data or state_dir()).absolute(), port, workers, say=lambda line: err.print(line, markup=False))
    word = state_dir() / "up.json"
    announced = running_stack() is None
    try:
        stack.start()
        if announced:
            announce(word, stack.description())
        emit(stack.description()) if as_json else _welcome(stack)
        while not stop.wait(LOOK):
            stack.look_after()
        err.print("stopping")
    finally:
        if announced:
            word.unlink(missing_ok=True)
        stack.stop()


def _refuse_busy(port: int) -> None:
    """Say so before anything is started."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise StackError(f"port {port} is busy: choose another, gatekeeper up --port {port + 1}") from None
            raise


def _welcome(stack: Stack) -> None:
    known, us = stack.description(), command()
    for name, value in (("front door", known["url"]), ("API", f"{known['url']}/docs"), ("data", stack.data)):
        out.print(f"  {name:11} {value}", markup=False)
    for name in ("shop_key", "admin_key", "redis_url", "database_url"):
        out.print(f"  {name.replace('_', ' '):11} {known[name]}", markup=False)
    out.print(
        f"""
In a second terminal:
  {us} sale create demo
  printf 'sku,quantity\\nJACKET,100\\n' | {us} stock load demo -
  {us} sale open demo
  curl -i {known["url"]}/v1/sales/demo/reservations \\
    -H 'Authorization: Bearer {known["shop_key"]}' \\
    -H 'Content-Type: application/json' -H 'Idempotency-Key: order-1' \\
    -d '{{"buyer":"bob","items":[{{"sku":"JACKET","quantity":1}}]}}'
  {us} sale status demo

Ctrl-C stops everything; the data stays.""",
        markup=False,
    )
