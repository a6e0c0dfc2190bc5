"""Events that could not be applied: kept whole, with the reason, until a person has looked."""

import re
from dataclasses import dataclass
from datetime import datetime

from gatekeeper.ledger.connection import Connection
from gatekeeper.model import Position

_ID = re.compile(rb"\b[0-9a-f]{32}\b")


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One row for people: where it was in the outbox, why it stands here, and what it names."""

    position: Position
    reason: str
    reservation: str | None
    skus: list[str]
    at: datetime


def named(payload: bytes) -> set[str]:
    """Return the reservation id that a payload names, malformed or not, as a set of 0 or 1."""
    found = _ID.search(payload)
    return {found.group().decode()} if found else set()


def add(connection: Connection, sale: str, position: Position, payload: bytes, reason: str) -> set[str]:
    """Keep an event; returns the reservation that it names, whose later events depend on it (see `named`).

    The payload may be garbage, so the id and the SKUs are what of the ledger's own words can be found in it; what
    is known of the reservation adds the SKUs of its items.
    """
    reservation = named(payload)
    words = payload.decode(errors="replace").replace("\x00", "").split()
    connection.execute(
        """
        INSERT INTO quarantine (sale, epoch, n, event, reason, reservation, skus)
        SELECT %(sale)s, %(epoch)s, %(n)s, %(payload)s, %(reason)s, %(reservation)s,
               ARRAY(SELECT sku FROM inventory WHERE sale = %(sale)s AND sku = ANY(%(words)s)
                     UNION SELECT sku FROM reservation_items WHERE sale = %(sale)s AND id = %(reservation)s
                     UNION SELECT unnest(skus) FROM quarantine
                            WHERE sale = %(sale)s AND reservation = %(reservation)s ORDER BY 1)
        """,
        {
            "sale": sale, "epoch": position.epoch, "n": position.n, "payload": payload, "reason": reason,
            "reservation": next(iter(reservation), None), "words": words,
        },
    )  # fmt: skip
    return reservation


def drop(connection: Connection, sale: str, position: Position) -> bool:
    """Take one event out; False when it is not there."""
    query = "DELETE FROM quarantine WHERE sale = %s AND epoch = %s AND n = %s"
    return connection.execute(query, [sale, position.epoch, position.n]).rowcount == 1


def void(connection: Connection, sale: str, reservation: str, until: Position) -> None:
    """Take out what a reservation has here up to a position: an event made up for it."""
    query = "DELETE FROM quarantine WHERE sale = %s AND reservation = %s AND (epoch, n) < (%s, %s)"
    connection.execute(query, [sale, reservation, until.epoch, until.n])


def clear(connection: Connection, sale: str, reservation: str) -> None:
    """Take out all that a reservation has here."""
    connection.execute("DELETE FROM quarantine WHERE sale = %s AND reservation = %s", [sale, reservation])


def events(connection: Connection, sale: str) -> list[tuple[Position, bytes]]:
    """Return what is in quarantine, in the order of the outbox."""
    query = "SELECT epoch, n, event FROM quarantine WHERE sale = %s ORDER BY epoch, n"
    return [(Position(epoch, n), payload) for epoch, n, payload in connection.execute(query, [sale])]


def keep(connection: Connection, sale: str, position: Position, reason: str) -> None:
    """Note why it could not be applied this time."""
    query = "UPDATE quarantine SET reason = %s WHERE sale = %s AND epoch = %s AND n = %s"
    connection.execute(query, [reason, sale, position.epoch, position.n])


def missing(connection: Connection, sale: str) -> list[str]:
    """Return the ids here that the ledger has no reservation of."""
    query = """
        SELECT DISTINCT reservation FROM quarantine AS q WHERE sale = %s AND reservation IS NOT NULL
           AND NOT EXISTS (SELECT FROM reservations AS r WHERE r.sale = q.sale AND r.id = q.reservation)
    """
    return [id for (id,) in connection.execute(query, [sale])]


def reservations(connection: Connection, sale: str) -> set[str]:
    """Return the ids of reservations that have an event in quarantine."""
    query = "SELECT DISTINCT reservation FROM quarantine WHERE sale = %s AND reservation IS NOT NULL"
    return {id for (id,) in connection.execute(query, [sale])}


def skus(connection: Connection, sale: str) -> set[str]:
    """Return the SKUs that quarantined events name: their counters are unproven."""
    return {
        sku for (sku,) in connection.execute("SELECT DISTINCT unnest(skus) FROM quarantine WHERE sale = %s", [sale])
    }


def unpaused(connection: Connection, sale: str) -> list[tuple[Position, list[str]]]:
    """Return what is quarantined and not yet known to be paused in Redis: position and SKUs (none: the whole sale)."""
    rows = connection.execute(
        "SELECT epoch, n, skus FROM quarantine WHERE sale = %s AND NOT paused ORDER BY 1, 2", [sale]
    )
    return [(Position(epoch, n), skus) for epoch, n, skus in rows]


def mark_paused(connection: Connection, sale: str, position: Position) -> None:
    """Record that Redis sells nothing more of what this event names."""
    query = "UPDATE quarantine SET paused = true WHERE sale = %s AND epoch = %s AND n = %s"
    connection.execute(query, [sale, position.epoch, position.n])


def rows(connection: Connection, sale: str | None = None) -> list[tuple[str, Quarantined]]:
    """Return everything in quarantine as (sale, row), oldest first; of one sale if named."""
    query = """
        SELECT sale, epoch, n, reason, reservation, skus, quarantined_at FROM quarantine
         WHERE %(sale)s::text IS NULL OR sale = %(sale)s ORDER BY quarantined_at, epoch, n
    """
    found = connection.execute(query, {"sale": sale})
    return [(name, Quarantined(Position(epoch, n), *rest)) for name, epoch, n, *rest in found]
