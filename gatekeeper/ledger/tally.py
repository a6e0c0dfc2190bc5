"""The rows and sums of one batch of events: collected in order, written in one statement per table.

A hot inventory row updated per order collapses under load, and `UPDATE … FROM` applies one joined row per target:
sums per SKU, taken first, avoid both.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from gatekeeper import events
from gatekeeper.events import Event
from gatekeeper.ledger import cursors, quarantine
from gatekeeper.ledger.checkpoints import ALL_BUYERS, Comparison
from gatekeeper.ledger.connection import Connection, array, json_text
from gatekeeper.model import Items, Position, Refund, Reservation, pack_items, unpack_items


class Inapplicable(Exception):
    """The event contradicts the ledger."""


@dataclass(slots=True)
class Delta:
    """What a batch changes of one SKU's inventory row, units: the row is updated once per batch, not per event."""

    capacity: int = 0
    granted: int = 0
    held: int = 0
    sold: int = 0


@dataclass(slots=True)
class Kept:
    """A reservation as the batch has it so far. `before` is its state in the ledger, "" when the batch made it."""

    before: str
    state: str
    items: Items
    late: bool = False
    payment: str = ""
    payments: dict[str, Refund] = field(default_factory=dict)
    """Every payment by its name; of the one that made the sale the state is `sold`."""


class Tally:
    """Collects a batch event by event, then writes it."""

    def __init__(self, sale: str) -> None:
        self._sale = sale
        self._deltas: dict[str, Delta] = {}
        self._kept: dict[str, Kept] = {}
        self._changed: set[str] = set()
        self._admitted: list[tuple[Reservation, Kept]] = []
        self._payments: dict[tuple[str, str], tuple[int, int]] = {}  # when first and when last heard of, ms
        self.discarded: dict[str, Position] = {}
        """Reservations whose quarantined events up to there are void."""
        self._movements: list[tuple[object, ...]] = []
        self._audit: list[tuple[object, ...]] = []
        self._grants: dict[int, int] = {}
        self._control: events.Control | None = None
        self._paused: dict[str, bool] = {}
        self._checkpoints: list[tuple[object, ...]] = []
        self.comparisons: list[Comparison] = []
        """Checkpoints compared, in order."""

    def load(self, connection: Connection, ids: Iterable[str]) -> None:
        """Read the reservations that the batch may change."""
        wanted = [self._sale, list(ids)]
        for id, state, late, payment, items in connection.execute(_KEPT, wanted) if wanted[1] else ():
            self._kept[id] = Kept(state, state, unpack_items(items), late, payment)
        for id, *refund in connection.execute(_KEPT_PAYMENTS, wanted) if self._kept else ():
            self._kept[id].payments[refund[0]] = Refund(*refund)

    def add(self, connection: Connection, position: Position, event: Event) -> None:
        """Collect one event; a checkpoint is compared here, at its own position."""
        match event:
            case events.Admit():
                self._admit(position, event)
            case events.Confirm():
                self._confirm(position, event)
            case events.Release():
                self._release(position, event)
            case events.Expire():
                self._end(position, event, "expiry", "expire", "held", "expired")
            case events.Settle():
                self._settle(event)
            case events.Discard():
                self._discard(position, event)
            case events.Grant():
                self._grant(position, event)
            case events.Control():
                self._settings(event)
            case events.Checkpoint():
                self._checkpoint(connection, position, event)
            case events.Epoch():
                detail = {"predecessor": str(event.predecessor)}
                self._audit.append((event.at_ms, event.actor, "epoch", json_text(detail)))

    def _move(self, position: Position, sku: str, at_ms: int, actor: str, reason: str, delta: Delta) -> None:
        total = self._deltas.setdefault(sku, Delta())
        total.capacity += delta.capacity
        total.granted += delta.granted
        total.held += delta.held
        total.sold += delta.sold
        row = (position.epoch, position.n, sku, delta.granted, delta.held, delta.sold, actor, reason, at_ms)
        self._movements.append(row)

    def _admit(self, position: Position, event: events.Admit) -> None:
        if event.id in self._kept:
            raise Inapplicable("the ledger has this reservation already")
        who = event.buyer, event.key, event.reference, event.items
        made = Reservation(self._sale, event.id, "held", False, "", event.at_ms, event.expires_ms, *who)
        self._make(made)
        for sku, quantity in event.items:
            self._move(position, sku, event.at_ms, event.buyer, "admit", Delta(held=quantity))

    def _make(self, made: Reservation) -> None:
        self._kept[made.id] = Kept("", made.state, made.items, made.late, made.payment)
        self._admitted.append((made, self._kept[made.id]))

    def _discard(self, position: Position, event: events.Discard) -> None:
        """Whatever the ledger has of this reservation becomes what Redis has; its units are given back."""
        kept, record = self._kept.get(event.id), event.record
        if kept is None:
            self._make(record)
        elif kept.state in ("held", "sold"):
            self._end(position, event, event.actor, f"discard: {event.reason}", kept.state, record.state)
        else:
            kept.state = record.state
            self._changed.add(event.id)
        kept = self._kept[event.id]
        kept.late, kept.payment = record.late, record.payment
        for refund in record.refunds:
            if kept.payments.get(refund.payment) != refund:
                self._note(event, refund)
        self.discarded[event.id] = position
        detail = {"reservation": event.id, "reason": event.reason}
        self._audit.append((event.at_ms, event.actor, "discard", json_text(detail)))

    def _confirm(self, position: Position, event: events.Confirm) -> None:
        if event.outcome == "refund_due":
            self._pay(event, Refund(event.payment, "refund_due"))
            return
        origin = "expired" if event.outcome == "retaken" else "held"
        kept = self._end(position, event, event.actor, "confirm", origin, "sold")
        kept.late, kept.payment = event.outcome != "sold", event.payment
        self._pay(event, Refund(event.payment, "sold"))

    def _release(self, position: Position, event: events.Release) -> None:
        kept = self._end(position, event, event.actor, f"release: {event.reason}", event.origin, "released")
        if event.origin == "sold":
            state = {"refund": "refund_due", "rejected": "rejected"}[event.reason]
            self._pay(event, Refund(kept.payment, state), was="sold")
            kept.payment = ""

    def _settle(self, event: events.Settle) -> None:
        self._pay(event, Refund(event.payment, "refunded", event.refund), was="refund_due")

    def _end(
        self,
        position: Position,
        event: events.Change | events.Discard,
        actor: str,
        reason: str,
        origin: str,
        state: str,
    ) -> Kept:
        """Move a reservation and its units from one state to the next; raises Inapplicable when it is in another."""
        kept = self._find(event.id)
        if kept.state != origin:
            raise Inapplicable(f"the ledger has this reservation as {kept.state}, the event says {origin}")
        kept.state = state
        self._changed.add(event.id)
        for sku, quantity in kept.items:
            delta = Delta(
                held=quantity * ((state == "held") - (origin == "held")),
                sold=quantity * ((state == "sold") - (origin == "sold")),
            )
            self._move(position, sku, event.at_ms, actor, reason, delta)
        return kept

    def _pay(self, event: events.Change, refund: Refund, *, was: str = "") -> None:
        """Note what became of a payment, which must have been `was` ("": unknown)."""
        payments = self._find(event.id).payments
        known = payments.get(refund.payment)
        if (known.state if known else "") != was:
            raise Inapplicable(f"the ledger has this payment as {known.state if known else 'unknown'}")
        self._note(event, refund)

    def _note(self, event: events.Change | events.Discard, refund: Refund) -> None:
        self._kept[event.id].payments[refund.payment] = refund
        first, _ = self._payments.get((event.id, refund.payment), (event.at_ms, 0))
        self._payments[event.id, refund.payment] = first, event.at_ms

    def _find(self, id: str) -> Kept:
        try:
            return self._kept[id]
        except KeyError:
            raise Inapplicable("the ledger lacks this reservation") from None

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
        self._audit.append((event.at_ms, event.actor, event.action, json_text(detail)))

    def _checkpoint(self, connection: Connection, position: Position, event: events.Checkpoint) -> None:
        skus = [line.sku for line in event.lines]
        ledger = self._counts(connection, skus)
        unproven = quarantine.skus(connection, self._sale)
        found = Comparison(position, event.at_ms, len(skus), [])
        for line in event.lines:
            redis = {"available": line.available, "held": line.held, "sold": line.sold, "granted": line.granted}
            if redis != ledger[line.sku]:
                known = {"redis": redis, "ledger": ledger[line.sku], "unproven": line.sku in unproven}
                found.drift.append({"sku": line.sku, **known})
        if event.buyer_units is not None:
            units = cursors.units(connection, self._sale) + sum(d.held + d.sold for d in self._deltas.values())
            if units != event.buyer_units:
                both = {"redis": {"units": event.buyer_units}, "ledger": {"units": units}}
                found.drift.append({"sku": ALL_BUYERS, **both, "unproven": bool(unproven)})
        self.comparisons.append(found)
        row = (position.epoch, position.n, event.at_ms, len(skus), json_text(found.drift), not found.surplus)
        self._checkpoints.append(row)

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
        self._update_reservations(connection)
        for query, rows in (
            (_RESERVATIONS, [_row(made, kept) for made, kept in self._admitted]),
            (_ITEMS, [(made.id, *item) for made, _ in self._admitted for item in made.items]),
            (_PAYMENTS, [self._payment(id, name, times) for (id, name), times in self._payments.items()]),
            (_MOVEMENTS, self._movements),
            (_CHECKPOINTS, self._checkpoints),
            (_AUDIT, self._audit),
        ):
            if rows:
                connection.execute(query, [self._sale, *map(array, zip(*rows, strict=True))])

    def _payment(self, id: str, name: str, times: tuple[int, int]) -> tuple[object, ...]:
        refund = self._kept[id].payments[name]
        return id, name, refund.state, refund.refund, *times

    def _update_reservations(self, connection: Connection) -> None:
        changed = ((id, self._kept[id]) for id in sorted(self._changed))
        rows = [(id, kept.before, kept.state, kept.late, kept.payment) for id, kept in changed if kept.before]
        if rows:
            cursor = connection.execute(_ENDINGS, [*map(array, zip(*rows, strict=True)), self._sale])
            if cursor.rowcount != len(rows):
                raise Inapplicable("a reservation of this batch changed beside the drain")

    def _update_inventory(self, connection: Connection) -> None:
        rows = [(sku, d.capacity, d.granted, d.held, d.sold) for sku, d in sorted(self._deltas.items())]
        if rows:
            cursor = connection.execute(_INVENTORY, [*map(array, zip(*rows, strict=True)), self._sale])
            if cursor.rowcount != len(rows):
                raise Inapplicable("the ledger's inventory lacks a SKU of this event")
        if units := sum(d.held + d.sold for d in self._deltas.values()):
            cursors.add_units(connection, self._sale, units)

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


def _row(made: Reservation, kept: Kept) -> tuple[object, ...]:
    who = made.id, made.buyer, made.idempotency_key, made.reference, pack_items(made.items)
    return (*who, kept.state, kept.late, kept.payment, made.created_ms, made.expires_ms)


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
       (sale, id, buyer, idempotency_key, reference, fingerprint, state, late, payment, created_at, expires_at)
SELECT %s, r.id, r.buyer, r.key, r.reference, r.fingerprint, r.state, r.late, r.payment,
       to_timestamp(r.created / 1000.0), to_timestamp(r.expires / 1000.0)
  FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::boolean[], %s::text[],
              %s::bigint[], %s::bigint[])
    AS r (id, buyer, key, reference, fingerprint, state, late, payment, created, expires)
"""

_KEPT = "SELECT id, state, late, payment, fingerprint FROM reservations WHERE sale = %s AND id = ANY(%s)"

_KEPT_PAYMENTS = "SELECT id, payment, state, refund FROM payments WHERE sale = %s AND id = ANY(%s)"

_ENDINGS = """
UPDATE reservations AS r SET state = c.state, late = c.late, payment = c.payment
  FROM unnest(%s::text[], %s::text[], %s::text[], %s::boolean[], %s::text[]) AS c (id, before, state, late, payment)
 WHERE r.sale = %s AND r.id = c.id AND r.state = c.before
"""

_PAYMENTS = """
INSERT INTO payments (sale, id, payment, state, refund, created_at, changed_at)
SELECT %s, p.id, p.payment, p.state, p.refund, to_timestamp(p.first / 1000.0), to_timestamp(p.last / 1000.0)
  FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[])
    AS p (id, payment, state, refund, first, last)
    ON CONFLICT (sale, id, payment) DO UPDATE  -- what may follow what was checked against the rows that were read
   SET state = EXCLUDED.state, refund = EXCLUDED.refund, changed_at = EXCLUDED.changed_at
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
INSERT INTO checkpoints (sale, epoch, n, at, skus, drift, stopped)
SELECT %s, c.epoch, c.n, to_timestamp(c.at / 1000.0), c.skus, c.drift, c.stopped
  FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::int[], %s::jsonb[], %s::boolean[])
    AS c (epoch, n, at, skus, drift, stopped)
"""

_AUDIT = """
INSERT INTO audit (sale, at, actor, action, detail)
SELECT %s, to_timestamp(a.at / 1000.0), a.actor, a.action, a.detail
  FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::jsonb[]) AS a (at, actor, action, detail)
"""
