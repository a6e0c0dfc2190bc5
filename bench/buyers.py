"""Buyers on gevent: they walk the reference shop's own steps, and remember what they were promised."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from random import Random
from typing import Any, TypeVar
from uuid import uuid4

import gevent
from gevent.event import Event
from gevent.pool import Group, Pool

from bench.arrivals import Kind
from bench.verdict import Seen, rounded
from gatekeeper.demo import steps
from gatekeeper.demo.moods import OVERTIME, Mood, mood_of
from gatekeeper.demo.payments import LATENCY, Declined, PaymentBooks, Unknown
from gatekeeper.demo.steps import NO_ANSWER, Answer, Ask, Charge, GateDown, Refund, Steps, Till, Wait

T = TypeVar("T")

BOT_CLICKS = 20
"""Purchases that a bot tries, all at once."""
FINISH_WITHIN = 10.0
"""Seconds that buyers have to finish when no more are let in."""
READ_WITHIN = 10.0
"""Seconds for reading again, at the end, what became of open reservations."""
READERS = 32

Send = Callable[[str, str, bytes | None, dict[str, str], float], Answer]
"""(path, name, body or None for GET, headers, ms that its buyer was late) → Answer; NO_ANSWER when none came."""


class Payments(PaymentBooks):
    """The demo's payment service for gevent."""

    def charge(self, key: str) -> str:
        """Charge once per key; returns the payment. Raises Declined, or Unknown when no answer came in time."""
        attempt = self.attempt(key, time.monotonic())
        gevent.sleep(attempt.seconds)
        if attempt.refusal:
            raise attempt.refusal
        return attempt.payment

    def refund(self, payment: str) -> str:
        """Give a payment's money back; returns the refund."""
        gevent.sleep(LATENCY[0])
        return self.give_back(payment)


@dataclass(slots=True)
class Promise:
    """A reservation that a buyer was told of."""

    state: str
    units: dict[str, int]


@dataclass(slots=True)
class Promises:
    """Everything this process was promised, and every contradiction."""

    seen: Seen
    by_id: dict[str, Promise] = field(default_factory=dict)
    _by_key: dict[str, str] = field(default_factory=dict)
    _created: set[str] = field(default_factory=set)

    def hear(self, ask: Ask, answer: Answer) -> None:
        """Take in one answer of the gate."""
        if answer.body.get("code") == "unknown_reservation":
            self.seen.broken["a reservation was forgotten"] += 1
        reservation = answer.body if answer.status in (200, 201) else answer.body.get("reservation")
        if not reservation:
            return
        if ask.key:
            another = self._by_key.setdefault(ask.key, reservation["id"]) != reservation["id"]
            if another or (answer.status == 201 and ask.key in self._created):
                self.seen.broken["a key made two reservations"] += 1
            if answer.status == 201:
                self._created.add(ask.key)
        self._update(reservation)

    def _update(self, reservation: dict[str, Any]) -> None:
        units = {item["sku"]: item["quantity"] for item in reservation["items"]}
        promise = self.by_id.setdefault(reservation["id"], Promise("held", units))
        if reservation["state"] != "held":  # an answer that was overtaken must not turn the clock back
            promise.state = reservation["state"]

    def close(self) -> None:
        """Sum up what became of them."""
        self.seen.told = len(self.by_id)
        for promise in self.by_id.values():
            self.seen.ended[promise.state] += 1
            if promise.state == "sold":
                self.seen.sold.update(promise.units)
            if promise.state in ("sold", "held"):
                self.seen.theirs.update(promise.units)


class Crowd:
    """All buyers of one process, at most `limit` at a time, on one sale with these SKUs."""

    def __init__(self, sale: str, key: str, skus: list[str], limit: int) -> None:
        self.seen = Seen()
        self.closing = Event()
        self.closed_at = float("inf")
        """When `closing` was set, time.monotonic()."""
        self.promises = Promises(self.seen)
        self.payments, self.till = Payments(), Till()
        self.luck = Random()
        self.base = f"/v1/sales/{sale}/reservations"
        self.headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        self._skus, self._limit = skus, limit
        self._inside, self._names, self._run = Group(), count(1), uuid4().hex[:8]

    def come(self, kind: Kind, due: float, send: Send) -> None:
        """A buyer comes who was due at this time.monotonic(); nobody waits for him."""
        self.seen.scheduled += 1
        if len(self._inside) >= self._limit:
            return
        self.seen.came += 1
        late = max(0.0, time.monotonic() - due) * 1000
        self.seen.late[rounded(late)] += 1
        buyer = Buyer(self, f"{self._run}-{next(self._names)}", self.luck.choice(self._skus), send, late)
        self._inside.add(gevent.spawn(buyer.visit, kind))

    def finish(self, send: Send) -> Seen:
        """Let nobody in any more, let those inside finish, read again what is open; returns what was seen. Bounded."""
        self.closed_at = time.monotonic()
        self.closing.set()
        self._inside.join(timeout=FINISH_WITHIN)
        self._inside.kill()
        unsure = [id for id, promise in self.promises.by_id.items() if promise.state == "held"]
        readers, read = Pool(READERS), set[str]()
        deadline = time.monotonic() + READ_WITHIN
        for id in unsure:
            if time.monotonic() > deadline:
                break
            readers.spawn(lambda id: self._read(id, send) and read.add(id), id)
        readers.join(timeout=max(0.1, deadline - time.monotonic()))
        readers.kill()
        for id in set(unsure) - read:
            self.seen.unread += 1
            del self.promises.by_id[id]
        self.promises.close()
        return self.seen

    def _read(self, id: str, send: Send) -> bool:
        """Whether it could be found out what became of a reservation."""
        for _ in range(5):
            answer = send(f"{self.base}/{id}", "read", None, self.headers, 0.0)
            if 0 < answer.status < 500:
                self.promises.hear(Ask(f"/{id}", {}), answer)
                return True
            gevent.sleep(0.5)
        return False


class Buyer:
    """One buyer of a crowd, who came `late` ms after his time."""

    def __init__(self, crowd: Crowd, name: str, sku: str, send: Send, late: float) -> None:
        self._crowd, self._name, self._send, self._late = crowd, name, send, late
        self._items = [{"sku": sku, "quantity": 1}]

    def visit(self, kind: Kind) -> None:
        """Click as this kind does, then pay for what was had, as the mood is."""
        if kind is Kind.BOT:
            clicks = [gevent.spawn(self._buy, f"{self._name}-{number}") for number in range(BOT_CLICKS)]
        elif kind is Kind.RETRIES:
            clicks = [gevent.spawn(self._buy, self._name), gevent.spawn(self._reserve, self._name)]
        else:
            clicks = [gevent.spawn(self._buy, self._name)]
        try:
            gevent.joinall(clicks)
            if kind is Kind.RETRIES:
                self._reserve(self._name)  # the page is loaded again, and shows how it ended
        finally:
            gevent.killall(clicks)

    def _buy(self, key: str) -> None:
        answer = self._reserve(key)
        if answer.status not in (200, 201):
            return
        mood = mood_of(answer.body["id"])
        if mood is Mood.NEVER_PAYS or (mood is Mood.PAYS_LATE and not self._linger(answer.body)):
            return
        try:
            self._walk(steps.pay(answer.body, self._crowd.till))
        except GateDown:
            self._crowd.seen.gave_up += 1

    def _reserve(self, key: str) -> Answer:
        try:
            return self._walk(steps.reserve(self._name, self._items, key))
        except GateDown:
            self._crowd.seen.gave_up += 1
            return NO_ANSWER

    def _linger(self, reservation: dict[str, Any]) -> bool:
        """Wait until the hold is over, and longer; False when the run ends long before."""
        made, ends = (datetime.fromisoformat(reservation[name]) for name in ("created_at", "expires_at"))
        until = time.monotonic() + (ends - made).total_seconds() + OVERTIME
        if self._crowd.closing.wait(until - time.monotonic()):
            left = until - time.monotonic()
            if left > FINISH_WITHIN / 2:
                return False
            gevent.sleep(max(0.0, left))
        return True

    def _walk(self, way: Steps[T]) -> T:
        try:
            step = next(way)
            while True:
                try:
                    came = self._take(step)
                except (Declined, Unknown) as error:
                    step = way.throw(error)
                else:
                    step = way.send(came)
        except StopIteration as end:
            result: T = end.value
            return result

    def _take(self, step: Ask | Charge | Refund | Wait) -> Answer | str | None:
        match step:
            case Ask():
                return self._post(step)
            case Charge(key):
                return self._crowd.payments.charge(key)
            case Refund(payment):
                return self._crowd.payments.refund(payment)
            case Wait(seconds):
                gevent.sleep(seconds)
                return None

    def _post(self, ask: Ask) -> Answer:
        seen, crowd = self._crowd.seen, self._crowd
        headers = crowd.headers | ({"Idempotency-Key": ask.key} if ask.key else {})
        name = ask.path.rpartition("/")[2] or "reserve"
        late, self._late = self._late, 0.0
        started = time.monotonic()
        answer = self._send(crowd.base + ask.path, name, json.dumps(ask.body).encode(), headers, late)
        seen.requests += 1
        seen.errors += not 0 < answer.status < 500
        if not ask.path:
            seen.answers[spoken(answer)] += 1
            seen.latencies[rounded(late + (time.monotonic() - started) * 1000)] += 1
        crowd.promises.hear(ask, answer)
        return answer


def spoken(answer: Answer) -> str:
    """An answer in a word or two: 201, 409 sold_out, no answer."""
    if not answer.status:
        return "no answer"
    return f"{answer.status} {answer.body.get('code', '')}".strip()
