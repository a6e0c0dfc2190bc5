"""What every command shares: settings, connections, how to print."""

import asyncio
import getpass
import json
import os
import shutil
import sys
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from gatekeeper.cli import fail
from gatekeeper.embedded import default_state_dir
from gatekeeper.errors import InvalidInput, SettingsError
from gatekeeper.gate import Gate
from gatekeeper.ledger import Connection
from gatekeeper.model import RESERVATION_ID, SALE_NAME
from gatekeeper.settings import Settings
from workers.connections import Connections

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False)

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def _sale(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not SALE_NAME.fullmatch(value):
        raise click.BadParameter("expected 1 to 64 of a-z 0-9 -")
    return value


def reservation_id(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """Check that a word can be a reservation's id."""
    if not RESERVATION_ID.fullmatch(value):
        raise click.BadParameter("expected a reservation's id, 32 hex digits")
    return value


sale_argument = click.argument("sale", callback=_sale)


def state_dir() -> Path:
    """Where `gatekeeper up` keeps its data and tells other commands how to reach it."""
    return Path(os.environ.get("GATEKEEPER_STATE_DIR") or default_state_dir())


def running_stack() -> dict[str, Any] | None:
    """Return what a running `gatekeeper up` wrote of itself: url, shop_key, admin_key, redis_url, database_url, pid."""
    try:
        stack: dict[str, Any] = json.loads((state_dir() / "up.json").read_text())
        os.kill(stack["pid"], 0)
    except (OSError, ValueError, KeyError):
        return None
    return stack


def load_settings() -> Settings:
    """Return the settings; what they leave open, a running `gatekeeper up` fills in. Raises SettingsError."""
    settings = Settings.load()
    if settings.redis_url and settings.database_url:
        return settings
    stack = running_stack()
    if stack is None:
        raise SettingsError(
            "no settings and no running stack: start one with `gatekeeper up`, "
            "or set GATEKEEPER_REDIS_URL and GATEKEEPER_DATABASE_URL."
        )
    return replace(
        settings,
        redis_url=settings.redis_url or stack["redis_url"],
        database_url=settings.database_url or stack["database_url"],
    )


def run(story: Callable[[Gate, Connection, Settings], Coroutine[Any, Any, T]]) -> T:
    """Run a command's coroutine with a gate and a ledger, and close both."""

    async def main() -> T:
        connections = Connections(load_settings())
        try:
            with connections.ledger() as ledger:
                return await story(connections.gate, ledger, connections.settings)
        finally:
            await connections.close()

    return asyncio.run(main())


def run_gate(story: Callable[[Gate], Coroutine[Any, Any, T]]) -> T:
    """Run a command's coroutine that needs Redis alone: it works while Postgres is down."""

    async def main() -> T:
        connections = Connections(load_settings())
        try:
            return await story(connections.gate)
        finally:
            await connections.close()

    return asyncio.run(main())


def command() -> str:
    """How this person calls us: `gatekeeper` when it is on PATH, else the way to it from here."""
    return "gatekeeper" if shutil.which("gatekeeper") else os.path.relpath(sys.argv[0])


def actor() -> str:
    """Who acts, for the audit."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        return "cli"


def confirm(sale: str, act: str, yes: bool) -> None:
    """Have a dangerous act (close, archive, repair, …) confirmed by the sale's name, typed."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{act} {sale} asks for a confirmation: pass --yes")
    typed = click.prompt(f"To {act} {sale}, type its name", default="", show_default=False, err=True)
    if typed != sale:
        raise InvalidInput(f"{typed!r} is not {sale!r}: nothing was done")


def emit(value: Any, *, to_stderr: bool = False) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, default=str, ensure_ascii=False), err=to_stderr)
