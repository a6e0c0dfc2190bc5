"""The scripts run on the run's real Valkey."""

from collections.abc import Iterator

import pytest

from tests.lua.sale import Sale


@pytest.fixture
def sale(redis_url: str) -> Iterator[Sale]:
    """An empty Redis with the scripts loaded and a sale still to be made."""
    sale = Sale(redis_url)
    yield sale
    sale.close()
