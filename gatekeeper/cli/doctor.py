"""gatekeeper doctor: reach everything, and say what to do."""

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import click
import psycopg
from redis.exceptions import RedisError
from rq import Worker

from gatekeeper.cli.context import emit, json_option, load_settings, out
from gatekeeper.errors import GatekeeperError
from gatekeeper.gate import Gate, connect
from gatekeeper.ledger import Connection, checkpoints, quarantine, reports, sales
from gatekeeper.ledger import connect as connect_ledger
from gatekeeper.ledger.migrate import missing
from gatekeeper.selfcheck import check_redis
from gatekeeper.settings import Settings
from workers.expire import NAME
from workers.queue import queue

ALIVE = 10.0
"""Seconds within which expiry must have left word."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    text: str
    """What it is, or what is wrong and what to do."""


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check Redis, Postgres, the worker and the sales. Exit 1 when something is wrong."""
    findings = asyncio.run(_examine(load_settings()))
    healthy = all(finding.ok for finding in findings)
    if as_json:
        emit({"healthy": healthy, "findings": [{"name": f.name, "ok": f.ok, "text": f.text} for f in findings]})
    for finding in [] if as_json else findings:
        out.print(f"{'[green]✓[/]' if finding.ok else '[red]✗[/]'} {finding.name:12} {finding.text}")
    sys.exit(0 if healthy else 1)


async def _examine(settings: Settings) -> list[Finding]:
    client = connect(settings.redis_url, timeout=3)
    try:
        return [finding async for finding in _all(settings, Gate(client))]
    finally:
        await client.aclose()


async def _all(settings: Settings, gate: Gate) -> AsyncIterator[Finding]:
    try:
        async for finding in _redis(settings, gate):
            yield finding
    except GatekeeperError as error:
        yield Finding("Redis", False, f"{error}: check GATEKEEPER_REDIS_URL={settings.redis_url}")
        return
    try:
        with connect_ledger(settings.database_url) as ledger:
            yield _ledger(ledger)
            if not missing(ledger):
                yield _quarantine(ledger)
                yield await _sales(gate, ledger)
                yield _drift(ledger)
    except psycopg.Error as error:
        reason = str(error).strip().splitlines()[0]
        yield Finding("Postgres", False, f"{reason}: check GATEKEEPER_DATABASE_URL, and that the server runs")
    yield _worker(settings)


async def _redis(settings: Settings, gate: Gate) -> AsyncIterator[Finding]:
    problems = await check_redis(gate.redis, settings.durability)
    info = await gate.redis.info("server")
    version = f"{info.get('server_name', 'redis')} {info.get('valkey_version', info.get('redis_version'))}"
    yield Finding("Redis", not problems, "; ".join(problems) or f"{version}, durability {settings.durability}")
    loaded = await gate.scripts_loaded()
    yield await _expiry(gate)
    yield Finding(
        "scripts", loaded, "loaded" if loaded else "not loaded: the controller loads them, run `gatekeeper worker`"
    )


async def _expiry(gate: Gate) -> Finding:
    now, _ = await gate.due(0)
    seconds = (now - await gate.heartbeat(NAME)) / 1000
    if seconds < ALIVE:
        return Finding("expiry", True, f"looked {seconds:.1f} s ago")
    return Finding("expiry", False, "does not look: holds do not end at their deadline. Run `gatekeeper worker`")


def _ledger(ledger: Connection) -> Finding:
    to_do = missing(ledger)
    if to_do:
        return Finding("Postgres", False, f"lacks {', '.join(to_do)}: run `gatekeeper migrate`")
    server = reports.server(ledger)
    if server["fsync"] != "on" or server["synchronous_commit"] == "off":
        return Finding("Postgres", False, "commits are not flushed: set fsync = on and synchronous_commit = on")
    return Finding("Postgres", True, f"{server['version']}, schema up to date")


def _quarantine(ledger: Connection) -> Finding:
    found = len(quarantine.rows(ledger))
    text = f"{found} events wait for a person: `gatekeeper quarantine list`" if found else "empty"
    return Finding("quarantine", not found, text)


async def _sales(gate: Gate, ledger: Connection) -> Finding:
    names = sales.live(ledger)
    marks = await gate.marks(names) if names else {}
    fenced = [f"{sale} ({mark.fence or 'not proven yet'})" for sale, mark in marks.items() if mark and mark.fence]
    lost = [f"{sale} (Redis lacks it)" for sale, mark in marks.items() if mark is None]
    if fenced or lost:
        remedy = "The worker proves what can be proven; `gatekeeper reconcile SALE --repair` mends the rest"
        return Finding("sales", False, f"fenced: {', '.join(fenced + lost)}. {remedy}")
    return Finding("sales", True, f"{len(names)}, none fenced")


def _drift(ledger: Connection) -> Finding:
    apart = checkpoints.apart(ledger)
    if apart:
        return Finding("checkpoints", False, f"drift in {', '.join(apart)}: `gatekeeper reconcile SALE`")
    return Finding("checkpoints", True, "the newest of every sale are equal")


def _worker(settings: Settings) -> Finding:
    try:
        jobs = queue(settings)
        alive = Worker.count(queue=jobs)
        jobs.connection.close()
    except RedisError as error:
        return Finding("worker", False, f"the queue's Redis: {error}: check GATEKEEPER_QUEUE_URL")
    return Finding("worker", alive > 0, f"{alive} draining" if alive else "none: run `gatekeeper worker`")
