"""One Valkey and one Postgres for the whole run; each test gets an empty Redis and a database of its own."""

import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
import redis

from gatekeeper.embedded import Postgres, start_postgres, start_valkey

TEMPLATE = "gatekeeper_template"
_numbers = count(1)


@pytest.fixture(scope="session")
def engine_data() -> Iterator[Path]:
    """A folder that the engines' user may enter; pytest's own are 0700."""
    folder = Path(tempfile.mkdtemp(prefix="gatekeeper-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def valkey_url(engine_data: Path) -> Iterator[str]:
    """The run's Valkey, configured as production needs it, with whatever the last test left in it."""
    with start_valkey(engine_data / "valkey") as engine:
        yield engine.url


@pytest.fixture
def redis_url(valkey_url: str) -> str:
    """The run's Valkey, without keys and without scripts."""
    with redis.Redis.from_url(valkey_url) as client:
        client.flushall()
        client.script_flush()
    return valkey_url


@pytest.fixture(scope="session")
def postgres_server(engine_data: Path) -> Iterator[Postgres]:
    """The run's Postgres; it survives crashes of the tests, not of the machine."""
    with start_postgres(engine_data / "postgres", config={"fsync": "off"}) as engine:
        yield engine


@pytest.fixture(scope="session")
def ledger_template(postgres_server: Postgres) -> str:
    """The name of a migrated database: cloning it is faster than migrating each test's own."""
    from gatekeeper.ledger import migrate

    _execute(postgres_server, f"CREATE DATABASE {TEMPLATE}")
    migrate(_url(postgres_server, TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database_url(postgres_server: Postgres, ledger_template: str) -> Iterator[str]:
    """A migrated, empty ledger, dropped afterwards with whoever is still connected."""
    name = f"ledger_{next(_numbers)}"
    _execute(postgres_server, f"CREATE DATABASE {name} TEMPLATE {ledger_template}")
    yield _url(postgres_server, name)
    _execute(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


def _url(server: Postgres, database: str) -> str:
    return server.url.rpartition("/")[0] + f"/{database}"


def _execute(server: Postgres, statement: str) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(statement)
