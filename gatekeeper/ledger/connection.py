"""How the ledger is reached, and how thousands of values get there at once."""

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import orjson
import psycopg
from psycopg.rows import TupleRow

Connection: TypeAlias = psycopg.Connection[TupleRow]

_OPTIONS: dict[str, Any] = {
    "autocommit": True,  # every transaction is a visible `with connection.transaction():`
    "connect_timeout": 5,
    "application_name": "gatekeeper",
    # A stopped worker must not keep a cursor locked: Postgres ends its transaction after 5 s of silence.
    "options": "-c idle_in_transaction_session_timeout=5s -c lock_timeout=10s -c statement_timeout=60s",
}


def connect(database_url: str) -> Connection:
    """Return a connection in autocommit mode; raises psycopg.OperationalError when Postgres is not to be had."""
    return psycopg.connect(database_url, **_OPTIONS)


# Possessive: it never tries again what it has passed, which would take memory for each character.
_ESCAPES = re.compile(rb'[^\\]*+(?:\\["\\][^\\]*+)*+').fullmatch


def array(values: Sequence[str | int | bool]) -> str:
    """Return an array as Postgres reads it, for `%s::type[]`; psycopg's own way takes half of a drain's time.

    JSON and Postgres write numbers, booleans and quoted text alike but for control characters, which no event may
    contain. Raises psycopg.DataError for them, and for numbers beyond 64 bits.
    """
    text = json_text(values)
    if "\\" in text and not _ESCAPES(text.encode()):
        raise psycopg.DataError("a control character in a value for the ledger")
    return "{" + text[1:-1] + "}"


def json_text(value: object) -> str:
    """Return a value as JSON; raises psycopg.DataError when it cannot be."""
    try:
        return orjson.dumps(value).decode()
    except TypeError as error:
        raise psycopg.DataError(str(error)) from None


def allow_pauses(connection: Connection, seconds: int) -> None:
    """Let this transaction wait for Redis longer than a drain's may."""
    connection.execute(f"SET LOCAL idle_in_transaction_session_timeout = '{seconds}s'")
