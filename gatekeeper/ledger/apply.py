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
    """Apply stretch by stretch: what cannot be applied is put away before what follows it is looked at."""
    while batch:
        end, reason = _first_unappliable(batch, blocked)
        if end:
            _apply_stretch(connection, sale, batch[:end], blocked, result)
        if reason:
            position, payload, _ = batch[end]
            _put_away(connection, sale, position, payload, reason, blocked, result)
        batch = batch[end + 1 :]


def _first_unappliable(batch: Sequence[Read], blocked: set[str]) -> tuple[int, str]:
    """Return where the batch has something that cannot be applied whatever the ledger says, and why."""
    freed: set[str] = set()
    for i, (_, _, event) in enumerate(batch):
        if isinstance(event, MalformedEvent):
            return i, str(event)
        if isinstance(event, events.Discard):
            freed.add(event.id)
        elif isinstance(event, events.Admit | events.Change) and event.id in blocked and event.id not in freed:
            return i, DEPENDANT
    return len(batch), ""


def _apply_stretch(
    connection: Connection, sale: str, batch: Sequence[Read], blocked: set[str], result: Applied
) -> None:
    """Apply all at once; if that is refused, halve until the event that cannot be applied stands alone."""
    tally = Tally(sale)
    try:
        with connection.transaction():
            tally.load(connection, {e.id for _, _, e in batch if isinstance(e, events.Change | events.Discard)})
            for position, _, event in batch:
                assert not isinstance(event, MalformedEvent)
                tally.add(connection, position, event)
            tally.write(connection)
    except _REFUSED as error:
        if len(batch) == 1:
            position, payload, _ = batch[0]
            _put_away(connection, sale, position, payload, str(error).splitlines()[0], blocked, result)
            return
        half = len(batch) // 2
        _apply(connection, sale, batch[:half], blocked, result)
        _apply(connection, sale, batch[half:], blocked, result)
        return
    result.comparisons += tally.comparisons
    for id, position in tally.discarded.items():
        quarantine.void(connection, sale, id, position)
        blocked.discard(id)


def _put_away(
    connection: Connection,
    sale: str,
    position: Position,
    payload: bytes,
    reason: str,
    blocked: set[str],
    result: Applied,
) -> None:
    blocked |= quarantine.add(connection, sale, position, payload, reason)
    result.quarantined += 1


def discard(connection: Connection, sale: str, position: Position, event: events.Discard) -> None:
    """Undo a reservation in the ledger alone, in place of its quarantined event at `position`.

    In the caller's transaction, which holds the cursor: for a sale that Redis does not answer for.
    """
    tally = Tally(sale)
    tally.load(connection, [event.id])
    tally.add(connection, position, event)
    tally.write(connection)
    quarantine.clear(connection, sale, event.id)


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
