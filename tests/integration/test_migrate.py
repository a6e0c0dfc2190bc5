"""Migrations: once each, in order, by whoever comes first."""

import subprocess
import sys

import psycopg
import pytest

from gatekeeper.embedded import Postgres
from gatekeeper.ledger import connect, migrate
from gatekeeper.ledger.migrate import NewerDatabase, applied, missing, shipped


@pytest.fixture
def empty_database(postgres_server: Postgres):  # type: ignore[no-untyped-def]
    with psycopg.connect(postgres_server.url, autocommit=True) as server:
        server.execute("CREATE DATABASE empty")
        yield postgres_server.url.rpartition("/")[0] + "/empty"
        server.execute("DROP DATABASE empty WITH (FORCE)")


def test_migrating_twice_applies_each_file_once(empty_database: str) -> None:
    assert (migrate(empty_database), migrate(empty_database)) == (list(shipped()), [])
    with connect(empty_database) as ledger:
        assert (applied(ledger), missing(ledger)) == (list(shipped()), [])


def test_migrating_at_once_from_several_places_applies_each_file_once(empty_database: str) -> None:
    code = f"from gatekeeper.ledger import migrate; print(len(migrate({empty_database!r})))"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    counts = sorted(int(process.communicate()[0]) for process in processes)
    assert counts == [0, 0, len(shipped())]


def test_a_newer_database_is_refused_and_left_alone(empty_database: str) -> None:
    migrate(empty_database)
    with connect(empty_database) as ledger:
        ledger.execute("INSERT INTO migrations (name) VALUES ('9999_future.sql')")
    with pytest.raises(NewerDatabase, match=r"9999_future\.sql.*upgrade Gatekeeper"):
        migrate(empty_database)
