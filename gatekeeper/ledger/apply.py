"""Apply a batch of events to the ledger, inside the caller's transaction, which also moves the cursor.

Plain inserts without ON CONFLICT: the cursor makes duplicates impossible, so a duplicate is a bug and goes to
quarantine, as does every event that cannot be applied. The rest flows on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg

from gatekeeper import events
from gatekeeper.events import Event, MalformedEvent
from gatekeeper.ledger import quarantine
from gatekeeper.ledger.checkpoints import Comparison
from gatekeeper.ledger.connection import Connection
from gatekeeper.ledger.tally import Inapplicable, Tally
from gatekeeper.model import Position

Raw = tuple[Position, bytes]
Read = tuple[Position, bytes, Event | MalformedEvent]
Rejected = tuple[Position, bytes, str]

_REFUSED = (Inapplicable, psycopg.IntegrityError, psycopg.DataError)
"""What quarantines an event. Anything else (connection, deadlock, …) means: the whole transaction again, later."""

DEPENDANT = "an earlier event of the same reservation is in quarantine"


@dataclass(slots=True)
class Applied:
    """What a batch came to."""

    quarantined: int = 0
    comparisons: list[Comparison] = field(default_factory=list)
    """Its checkpoints, in order."""


def apply(connection: Connection, sale: str, batch: Sequence[Raw]) -> Applied:
    """Apply events in order; returns what came of them. Raises psycopg.Error when the transaction is lost."""
    result = Applied()
    blocked = quarantine.reservations(connection, sale)
    _apply(connection, sale, [(position, payload, _read(payload)) for position, payload in batch], blocked, result)
    return result


def _read(payload: bytes) -> Event | MalformedEvent:
    try:
        return events.parse(payload)
    except MalformedEvent as error:
        return error


def _apply(connection: Connection, sale: str, batch: Sequence[Read], blocked: set[str], result: Applied) -> None:
    """Apply all at once; if that is refused, halve until the event that cannot be applied stands alone."""
    discarded: dict[str, Position] = {}
    try:
        with connection.transaction():
            tally, rejected = Tally(sale), _sift(batch, blocked)
            refused = {position for position, _, _ in rejected}
            tally.load(connection, {e.id for _, _, e in batch if isinstance(e, events.Change | events.Discard)})
            for position, _, event in batch:
                if position not in refused and not isinstance(event, MalformedEvent):
                    tally.add(connection, position, event)
            tally.write(connection)
    except _REFUSED as error:
        if len(batch) > 1:
            half = len(batch) // 2
            _apply(connection, sale, batch[:half], blocked, result)
            _apply(connection, sale, batch[half:], blocked, result)
            return
        position, payload, _ = batch[0]
        rejected = [(position, payload, str(error).splitlines()[0])]
    else:
        result.comparisons += tally.comparisons
        discarded = tally.discarded
    for position, payload, reason in rejected:
        blocked |= quarantine.add(connection, sale, position, payload, reason)
        result.quarantined += 1
    for id, position in discarded.items():
        quarantine.void(connection, sale, id, position)
        blocked.discard(id)


def _sift(batch: Sequence[Read], blocked: set[str]) -> list[Rejected]:
    """Return what cannot be applied whatever the ledger says: the malformed, and what depends on the quarantined."""
    blocked, rejected = set(blocked), []
    for position, payload, event in batch:
        if isinstance(event, MalformedEvent):
            rejected.append((position, payload, str(event)))
            blocked |= quarantine.named(payload)
        elif isinstance(event, events.Discard):
            blocked.discard(event.id)
        elif isinstance(event, events.Admit | events.Change) and event.id in blocked:
            rejected.append((position, payload, DEPENDANT))
    return rejected


def retry(connection: Connection, sale: str) -> tuple[int, int]:
    """Apply what is in quarantine and can be applied now; returns how many events were, and how many were not.

    In the caller's transaction, which holds the cursor. Each stands alone; what depends on one that stays, stays.
    """
    waiting, stuck = quarantine.events(connection, sale), set[str]()
    applied = 0
    for position, payload in waiting:
        if quarantine.named(payload) & stuck:
            continue
        try:
            with connection.transaction():
                _once_more(connection, sale, position, payload)
                quarantine.drop(connection, sale, position)
            applied += 1
        except (MalformedEvent, *_REFUSED) as error:
            quarantine.keep(connection, sale, position, str(error).splitlines()[0])
            stuck |= quarantine.named(payload)
    return applied, len(waiting) - applied


def _once_more(connection: Connection, sale: str, position: Position, payload: bytes) -> None:
    event = events.parse(payload)
    if not isinstance(event, events.Admit | events.Change | events.Discard | events.Grant):
        raise Inapplicable("later events have overtaken this one: discard it")
    tally = Tally(sale)
    tally.load(connection, [] if isinstance(event, events.Grant) else [event.id])
    tally.add(connection, position, event)
    tally.write(connection)
