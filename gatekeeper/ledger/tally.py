"""The rows and sums of one batch of events: collected in order, written in one statement per table.

A hot inventory row updated per order collapses under load, and `UPDATE … FROM` applies one joined row per target:
sums per SKU, taken first, avoid both.
"""

from dataclasses import dataclass

from psycopg.types.json import Jsonb

from gatekeeper import events
from gatekeeper.events import Event
from gatekeeper.ledger import quarantine
from gatekeeper.ledger.connection import Connection
from gatekeeper.model import Position, pack_items


class Inapplicable(Exception):
    """The event contradicts the ledger."""


@dataclass(slots=True)
class Delta:
    """What a batch changes of one SKU's inventory row, units: the row is updated once per batch, not per event."""

    capacity: int = 0
    granted: int = 0
    held: int = 0
    sold: int = 0


class Tally:
    """Collects a batch event by event, then writes it."""

    def __init__(self, sale: str) -> None:
        self._sale = sale
        self._deltas: dict[str, Delta] = {}
        self._reservations: list[tuple[object, ...]] = []
        self._items: list[tuple[object, ...]] = []
        self._movements: list[tuple[object, ...]] = []
        self._audit: list[tuple[object, ...]] = []
        self._grants: dict[int, int] = {}
        self._control: events.Control | None = None
        self._paused: dict[str, bool] = {}
        self._checkpoints: list[tuple[object, ...]] = []
        self.drifted = 0
        """Checkpoints that were not equal."""
        self.surplus: set[str] = set()
        """SKUs of which Redis showed more available than the ledger."""

    @property
    def checkpoints(self) -> int:
        """Checkpoints compared."""
        return len(self._checkpoints)

    def add(self, connection: Connection, position: Position, event: Event) -> None:
        """Collect one event; a checkpoint is compared here, at its own position."""
        match event:
            case events.Admit():
                self._admit(position, event)
            case events.Grant():
                self._grant(position, event)
            case events.Control():
                self._settings(event)
            case events.Checkpoint():
                self._checkpoint(connection, position, event)
            case events.Epoch():
                self._audit.append((event.at_ms, event.actor, "epoch", Jsonb({"predecessor": str(event.predecessor)})))

    def _move(self, position: Position, sku: str, at_ms: int, actor: str, reason: str, delta: Delta) -> None:
        total = self._deltas.setdefault(sku, Delta())
        total.capacity += delta.capacity
        total.granted += delta.granted
        total.held += delta.held
        total.sold += delta.sold
        row = (position.epoch, position.n, sku, delta.granted, delta.held, delta.sold, actor, reason, at_ms)
        self._movements.append(row)

    def _admit(self, position: Position, event: events.Admit) -> None:
        fingerprint = pack_items(event.items)
        row = (event.id, event.buyer, event.key, event.reference, fingerprint, event.at_ms, event.expires_ms)
        self._reservations.append(row)
        for sku, quantity in event.items:
            self._items.append((event.id, sku, quantity))
            self._move(position, sku, event.at_ms, event.buyer, "admit", Delta(held=quantity))

    def _grant(self, position: Position, event: events.Grant) -> None:
        self._grants[event.number] = len(event.lines)
        for line in event.lines:
            # A raise has raised the capacity before Redis heard of it; what Redis gave back lowers it here.
            delta = Delta(capacity=min(line.delta, 0), granted=line.delta)
            self._move(position, line.sku, event.at_ms, event.actor, event.reason or "grant", delta)

    def _settings(self, event: events.Control) -> None:
        self._control = event
        if event.sku:
            self._paused[event.sku] = event.action == "pause_sku"
        detail = {"state": event.state, "sku": event.sku} if event.sku else {"state": event.state}
        self._audit.append((event.at_ms, event.actor, event.action, Jsonb(detail)))

    def _checkpoint(self, connection: Connection, position: Position, event: events.Checkpoint) -> None:
        skus = [line.sku for line in event.lines]
        ledger = self._counts(connection, skus)
        unproven = quarantine.skus(connection, self._sale)
        drift = []
        for line in event.lines:
            redis = {"available": line.available, "held": line.held, "sold": line.sold, "granted": line.granted}
            if redis != ledger[line.sku]:
                known = {"redis": redis, "ledger": ledger[line.sku], "unproven": line.sku in unproven}
                drift.append({"sku": line.sku, **known})
                if line.available > ledger[line.sku]["available"]:
                    self.surplus.add(line.sku)
        self.drifted += bool(drift)
        self._checkpoints.append((position.epoch, position.n, event.at_ms, len(skus), Jsonb(drift)))

    def _counts(self, connection: Connection, skus: list[str]) -> dict[str, dict[str, int]]:
        """Return the ledger's counters at this position: what its rows say, and what this batch adds to them."""
        rows = {sku: counts for sku, *counts in connection.execute(_COUNTS, [self._sale, skus])}
        result = {}
        for sku in skus:
            tracked, granted, held, sold = rows.get(sku, (True, 0, 0, 0))
            delta = self._deltas.get(sku, Delta())
            granted, held, sold = granted + delta.granted, held + delta.held, sold + delta.sold
            available = granted - held - sold if tracked else 0
            result[sku] = {"available": available, "held": held, "sold": sold, "granted": granted}
        return result

    def write(self, connection: Connection) -> None:
        """Write everything collected, in the order that the foreign keys and CHECKs want."""
        self._update_inventory(connection)
        self._update_grants(connection)
        self._update_sale(connection)
        for query, rows in (
            (_RESERVATIONS, self._reservations),
            (_ITEMS, self._items),
            (_MOVEMENTS, self._movements),
            (_CHECKPOINTS, self._checkpoints),
            (_AUDIT, self._audit),
        ):
            if rows:
                connection.execute(query, [self._sale, *map(list, zip(*rows, strict=True))])

    def _update_inventory(self, connection: Connection) -> None:
        rows = [(sku, d.capacity, d.granted, d.held, d.sold) for sku, d in sorted(self._deltas.items())]
        if rows:
            cursor = connection.execute(_INVENTORY, [*map(list, zip(*rows, strict=True)), self._sale])
            if cursor.rowcount != len(rows):
                raise Inapplicable("the ledger's inventory lacks a SKU of this event")

    def _update_grants(self, connection: Connection) -> None:
        if self._grants:
            cursor = connection.execute(_GRANTS, [self._sale, list(self._grants)])
            if cursor.rowcount != sum(self._grants.values()):
                raise Inapplicable("the ledger never asked for this grant, or not once")

    def _update_sale(self, connection: Connection) -> None:
        for sku, paused in self._paused.items():
            connection.execute(_PAUSED, [paused, self._sale, sku])
        if control := self._control:
            times = control.opens_at_ms or None, control.closes_at_ms or None
            connection.execute(_SALE, [control.state, *times, control.per_buyer, control.hold_ms, self._sale])


_COUNTS = "SELECT sku, tracked, granted, held, sold FROM inventory WHERE sale = %s AND sku = ANY(%s)"

_INVENTORY = """
UPDATE inventory AS i
   SET capacity = i.capacity + d.capacity, granted = i.granted + d.granted,
       held = i.held + d.held, sold = i.sold + d.sold
  FROM unnest(%s::text[], %s::int[], %s::int[], %s::int[], %s::int[]) AS d (sku, capacity, granted, held, sold)
 WHERE i.sale = %s AND i.sku = d.sku
"""

_GRANTS = "UPDATE grants SET applied = true WHERE sale = %s AND number = ANY(%s) AND NOT applied"

_PAUSED = "UPDATE inventory SET paused = %s WHERE sale = %s AND sku = %s"

_SALE = """
UPDATE sales
   SET state = %s, opens_at = to_timestamp(%s / 1000.0), closes_at = to_timestamp(%s / 1000.0),
       per_buyer = %s, hold_ms = %s
 WHERE sale = %s
"""

_RESERVATIONS = """
INSERT INTO reservations
       (sale, id, buyer, idempotency_key, reference, fingerprint, state, created_at, expires_at)
SELECT %s, r.id, r.buyer, r.key, r.reference, r.fingerprint, 'held',
       to_timestamp(r.created / 1000.0), to_timestamp(r.expires / 1000.0)
  FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[])
    AS r (id, buyer, key, reference, fingerprint, created, expires)
"""

_ITEMS = """
INSERT INTO reservation_items (sale, id, sku, quantity)
SELECT %s, i.id, i.sku, i.quantity FROM unnest(%s::text[], %s::text[], %s::int[]) AS i (id, sku, quantity)
"""

_MOVEMENTS = """
INSERT INTO movements (sale, epoch, n, sku, granted, held, sold, actor, reason, at)
SELECT %s, m.epoch, m.n, m.sku, m.granted, m.held, m.sold, m.actor, m.reason, to_timestamp(m.at / 1000.0)
  FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::int[], %s::int[], %s::int[],
              %s::text[], %s::text[], %s::bigint[])
    AS m (epoch, n, sku, granted, held, sold, actor, reason, at)
"""

_CHECKPOINTS = """
INSERT INTO checkpoints (sale, epoch, n, at, skus, drift)
SELECT %s, c.epoch, c.n, to_timestamp(c.at / 1000.0), c.skus, c.drift
  FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::int[], %s::jsonb[]) AS c (epoch, n, at, skus, drift)
"""

_AUDIT = """
INSERT INTO audit (sale, at, actor, action, detail)
SELECT %s, to_timestamp(a.at / 1000.0), a.actor, a.action, a.detail
  FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::jsonb[]) AS a (at, actor, action, detail)
"""
