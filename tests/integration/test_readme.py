"""The backend that the README shows does what it says, against a real front door."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.door import FrontDoor
from tests.lua.sale import SALE, Sale

README = Path(__file__).parents[2] / "README.md"


class Declined(Exception):
    pass


@pytest.fixture
def backend(redis_url: str) -> Iterator[tuple[dict[str, Any], Sale]]:
    """The README's functions, and the sale of two units that they buy from."""
    sale = Sale(redis_url)
    sale.create(stock="A:2")
    door = FrontDoor(redis_url).wait()
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names = {"GATE": f"http://127.0.0.1:{door.port}", "KEY": "shop", "SALE": SALE, "Declined": Declined}
    names |= {"charge": lambda order: f"pay-{order}", "refund": lambda payment: f"back-{payment}"}
    exec(code, names)
    yield names, sale
    assert door.stop() == 0
    sale.close()


def test_it_sells_releases_and_refunds(backend: tuple[dict[str, Any], Sale]) -> None:
    names, sale = backend
    items = [{"sku": "A", "quantity": 1}]
    assert names["buy"]("o1", "bob", items) == names["buy"]("o1", "bob", items) == "sold"

    def declines(order: str) -> str:
        raise Declined

    names["charge"] = declines
    assert names["buy"]("o2", "eve", items) == "released"
    assert sale.stock() == {"A": "1 0 1 2 1 0"}

    def takes_too_long(order: str) -> str:
        sale.overdue()
        sale.expire()
        sale.buy(buyer="zoe", key="z")
        return f"pay-{order}"

    names["charge"] = takes_too_long
    assert names["buy"]("o3", "mia", items) == "refunded"
    assert sale.events()[-1].split("\n")[0] == "settle"
    assert names["buy"]("o4", "tom", items) == "sold_out"


def test_it_is_as_short_as_it_says() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    _, buy = code.split("def buy")
    assert len(buy.strip().splitlines()) <= 20
