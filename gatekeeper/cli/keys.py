"""gatekeeper keys: API keys, of which only the hash is kept."""

import os
from pathlib import Path

import click

from gatekeeper.cli.context import emit, err, json_option
from gatekeeper.http.auth import ROLES, new_key
from gatekeeper.settings import Settings


@click.group()
def keys() -> None:
    """Make API keys."""


@keys.command()
@click.option("--name", required=True, help="Whose key this is; stands in the audit.")
@click.option("--role", type=click.Choice(ROLES), required=True, help="shop: a merchant's backend; admin: everything.")
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False), help="Add the hashed line to this file.")
@json_option
def create(name: str, role: str, file: Path | None, as_json: bool) -> None:
    """Make a key. The secret is shown once, on stdout."""
    secret, line = new_key(name, role)
    where = file or (Path(given) if (given := Settings.load().keys_file) else None)
    if where:
        _append(where, line)
    if as_json:
        emit({"key": secret, "line": line, "file": str(where) if where else None})
        return
    click.echo(secret)
    if where:
        err.print(f"added to {where}; front doors that read it accept the key from its first use on")
    else:
        err.print(f"give your front doors this line, in GATEKEEPER_KEYS (comma-separated):\n{line}", soft_wrap=True)


def _append(file: Path, line: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as lines:
        lines.write(line + "\n")
