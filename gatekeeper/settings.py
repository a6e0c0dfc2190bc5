"""All settings, with every default, in one table. Source: environment variables `GATEKEEPER_<NAME>`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

from gatekeeper.errors import SettingsError

Durability = Literal["always", "everysec", "unverified"]
"""Which acknowledged purchases may be lost with Redis's power: none, the last second's, nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The defaults below hold where no variable is set."""

    redis_url: str = ""
    """The gate's Redis, redis://host:port/db."""
    queue_url: str = ""
    """RQ's Redis; empty: the gate's. RQ does not run on a cluster, the gate does."""
    database_url: str = ""
    """The ledger's Postgres, postgresql://…"""
    durability: Durability = "always"
    keys: str = ""
    """API keys, comma-separated `name:role:sha256`, as printed by `gatekeeper keys create`."""
    keys_file: str = ""
    """A file of such keys, one a line; read again when it changes."""
    buyer_token_key: str = ""
    """Verifies buyer tokens: a PEM public key (RS256, ES256, EdDSA) or a shared secret of ≥ 32 bytes (HS256)."""
    redis_timeout: float = 0.7
    """Seconds a front door waits for Redis: with the reply to write, an outage is answered within 1 s."""
    max_queue: int = 10_000
    """Purchases waiting in one front door; past it 503 `overloaded`."""
    backlog_limit: int = 1_000_000
    """Events that may wait for the ledger, per sale (≈ 200 B each in Redis); past it 503 `backlog_full`."""
    checkpoint_seconds: float = 5.0
    """Between two scheduled comparisons of a sale in which something happens."""
    keep_events: int = 100_000
    """Applied events kept in the outbox, per sale, so that a Postgres restored to a little earlier can catch up."""

    @classmethod
    def load(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read `GATEKEEPER_*`; raises SettingsError naming the variable and what was expected."""
        values: dict[str, Any] = {}
        for field in fields(cls):
            variable = f"GATEKEEPER_{field.name.upper()}"
            if given := environ.get(variable, "").strip():
                values[field.name] = _parse(variable, given, field.type)
        return cls(**values)

    def require(self, *names: Literal["redis_url", "database_url"]) -> Self:
        """Return self, or raise SettingsError when one of the named settings is empty."""
        for name in names:
            if not getattr(self, name):
                raise SettingsError(
                    f"GATEKEEPER_{name.upper()} is not set. Set it, or start the embedded stack with `gatekeeper up`."
                )
        return self


def _parse(variable: str, given: str, type_: object) -> object:
    if type_ is Durability and given not in get_args(Durability):
        raise SettingsError(f"{variable}={given}: expected one of {', '.join(get_args(Durability))}")
    if type_ not in (int, float):
        return given
    try:
        number = int(given) if type_ is int else float(given)
    except ValueError:
        number = 0
    if not number > 0:
        raise SettingsError(f"{variable}={given}: expected a {'whole ' if type_ is int else ''}number above 0")
    return number
