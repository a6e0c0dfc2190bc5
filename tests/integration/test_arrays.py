"""Arrays for the ledger are written as Postgres reads them."""

import tracemalloc

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatekeeper.ledger.connection import array

TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"])) | st.sampled_from(
    ["", "NULL", "null", "{}", "{a,b}", '"', '\\"', "\\", "\\\\", "\\n", "a b", " ", ",", "\u2028", "\U0001f600", "'"]
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXTS, max_size=8), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5), st.lists(st.booleans()))
def test_postgres_reads_what_was_given(
    database_url: str, texts: list[str], numbers: list[int], flags: list[bool]
) -> None:
    with psycopg.connect(database_url) as connection:
        query = "SELECT %s::text[], %s::bigint[], %s::boolean[]"
        row = connection.execute(query, [array(texts), array(numbers), array(flags)]).fetchone()
    assert row == (texts, numbers, flags)


@pytest.mark.parametrize("bad", ["\n", "a\tb", "\x00", "\x1f", '\\\n"', "\x7f\x01"])
def test_control_characters_are_refused(bad: str) -> None:
    with pytest.raises(psycopg.DataError):
        array(["good", bad])


def test_numbers_beyond_64_bits_are_refused() -> None:
    with pytest.raises(psycopg.DataError):
        array([1, 10**20])


def test_quotes_in_many_long_names_take_no_memory_to_check() -> None:
    names = ["x" * 120 + '"'] * 20_000
    tracemalloc.start()
    try:
        array(names)
        assert tracemalloc.get_traced_memory()[1] < 5 * sum(map(len, names))
    finally:
        tracemalloc.stop()
