"""The loop of a worker process: do one round again and again until told to stop; outages are waited out."""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable

import psycopg
from redis.exceptions import RedisError

from gatekeeper.errors import GateError
from gatekeeper.settings import Settings
from workers.connections import Connections

log = logging.getLogger(__name__)

Round = Callable[[], Awaitable[None]]


async def repeat(round_: Round, *, every: float) -> None:
    """Run rounds `every` seconds apart until SIGTERM or SIGINT; an outage is logged once, and its end too."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    ailing = ""
    while not stop.is_set():
        try:
            await round_()
            if ailing:
                log.warning("works again")
            ailing = ""
        except (GateError, psycopg.Error, RedisError) as error:
            if ailing != (ailing := str(error).splitlines()[0]):
                log.warning("waits: %s", ailing)
        try:
            await asyncio.wait_for(stop.wait(), every)
        except TimeoutError:
            continue


def run(make_round: Callable[[Connections], Round], *, every: float) -> None:
    """Run a process's rounds over connections of its own."""

    async def main() -> None:
        connections = Connections(Settings.load())
        try:
            await repeat(make_round(connections), every=every)
        finally:
            await connections.close()

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    asyncio.run(main())
