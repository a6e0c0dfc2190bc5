"""What the integration tests share."""

import asyncio
from collections.abc import Callable, Iterator

import pytest

from tests.integration.shell import Shell
from tests.integration.world import World


@pytest.fixture
def world(redis_url: str, database_url: str) -> Iterator[Callable[[Callable], None]]:  # type: ignore[type-arg]
    """Return a runner: it makes a world, gives it to a test's coroutine, and closes it."""

    def run(story: Callable) -> None:  # type: ignore[type-arg]
        async def main() -> None:
            world = World(redis_url, database_url)
            try:
                await story(world)
            finally:
                await world.close()

        asyncio.run(main())

    yield run


@pytest.fixture
def shell(redis_url: str, database_url: str) -> Iterator[Shell]:
    """Scripts loaded, nothing else there."""
    shell = Shell(redis_url, database_url)
    yield shell
    shell.close()
