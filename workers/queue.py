"""RQ: the doorbell and the supervisor, never the store. Lose every job, and the next tick drains all the same."""

import asyncio
import logging
import os
import time
from contextlib import suppress
from pathlib import Path

import psycopg
from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, SimpleWorker

from gatekeeper.errors import GateError
from gatekeeper.settings import Settings
from workers.connections import Connections
from workers.drain import Drained, Stop
from workers.drain import drain as drain_sale

log = logging.getLogger(__name__)

NAME = "gatekeeper"
SERIALIZER = "json"  # pickle, the default, would run whatever code the queue's Redis hands us
JOB_TIMEOUT = 60
"""Seconds; a job's budgets end long before."""
JOB_SECONDS = 20.0
"""After which a job leaves the rest of its sales to the next one."""
NICE = 10
"""Scheduling priority of the processes that drain, from 0 (as everybody) to 19 (only when nobody else wants to run)."""
FAILURE_TTL = 60
"""Seconds that a failed job stays to be looked at; what it should have done is in the outbox still."""


_DAMAGE = (RedisError, psycopg.Error, ValueError, TypeError)
"""What one sale's data may raise, which must hinder no other."""


def queue(settings: Settings) -> Queue:
    """Return the queue; its Redis may be another than the gate's."""
    url = settings.queue_url or settings.require("redis_url").redis_url
    # No socket timeout: workers wait in blocking reads.
    return Queue(NAME, connection=Redis.from_url(url, socket_connect_timeout=5), serializer=SERIALIZER)


def enqueue_drain(jobs: Queue, sales: list[str]) -> None:
    """Ask a worker to drain these sales."""
    jobs.enqueue_call(drain, args=(sales,), timeout=JOB_TIMEOUT, result_ttl=0, failure_ttl=FAILURE_TTL)


class _Process:
    """What a worker process keeps from job to job: its connections, and the event loop that they belong to."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        self._connections: Connections | None = None

    def run(self, sales: list[str]) -> None:
        self._runner = self._runner or asyncio.Runner()
        self._connections = self._connections or Connections(Settings.load())
        try:
            self._runner.run(_drain(self._connections, sales))
        except BaseException:
            # A job may end in the middle of anything (RQ's timeout is an exception): start afresh.
            self._runner, self._connections = None, None
            raise


_process = _Process()


def drain(sales: list[str]) -> None:
    """RQ job: drain each of the sales; one that fails rings again and hinders no other."""
    _process.run(sales)


async def _drain(connections: Connections, sales: list[str]) -> None:
    again: list[str] = []
    deadline = time.monotonic() + JOB_SECONDS
    for sale in sales:
        if time.monotonic() > deadline:
            again.append(sale)
            continue
        try:
            with connections.ledger() as ledger:
                done: Drained = await drain_sale(connections.gate, ledger, sale, keep=connections.settings.keep_events)
            if done.stop is Stop.BUDGET:
                again.append(sale)
        except (GateError, psycopg.OperationalError) as error:
            log.warning("drain of %s waits: %s", sale, str(error).splitlines()[0])
            again.append(sale)
        except _DAMAGE as error:  # the rotation comes again
            log.error("drain of %s failed: %s", sale, str(error).splitlines()[0])
    if again:
        await connections.gate.ring(again)


class DrainWorker(SimpleWorker):
    """Runs jobs in its own process: draining is one job type that keeps its connections."""

    max_connection_wait_time = 1.0  # seconds; RQ would wait up to a minute after Redis is back


def give_way() -> None:
    """Let the gate go first where both share a machine: the ledger can catch up after the crowd, buyers cannot wait."""
    os.nice(NICE)
    with suppress(OSError):  # Linux may weigh whole sessions against each other, of which this process has its own
        Path("/proc/self/autogroup").write_text(str(NICE))


def main() -> None:
    """Work until SIGTERM."""
    give_way()
    jobs = queue(Settings.load())
    DrainWorker([jobs], connection=jobs.connection, serializer=SERIALIZER).work(logging_level="WARNING")


if __name__ == "__main__":
    main()
