"""How a hold ends over HTTP: confirm, release, settle. Each may be sent again and answers as before."""

import asyncio

from gatekeeper import metrics
from gatekeeper.http.answers import Answer, json_answer, reservation_json
from gatekeeper.http.door import READ_SECONDS
from gatekeeper.http.operations import Call, reservation_of
from gatekeeper.http.problems import Refused, problem
from gatekeeper.http.purchase import expect_json, read_body
from gatekeeper.http.validation import parse_texts
from gatekeeper.outcomes import Outcome
from gatekeeper.replies import Turn

_DONE = (Outcome.CONFIRMED, Outcome.RELEASED, Outcome.SETTLED)
_REPLAYED = (b"idempotent-replayed", b"true")


async def confirm(call: Call) -> Answer:
    """The payment has arrived: the hold becomes a sale, or the payment is due back."""
    id, body = reservation_of(call), await _texts(call, "payment")
    async with asyncio.timeout(READ_SECONDS):
        turn = await call.door.gate.confirm(call.visit.sale, id, body["payment"], actor=_actor(call))
    replayed = not turn.changed and turn.reservation is not None
    if turn.outcome in _DONE:
        return _answer(call, "confirm", turn, replayed=replayed)
    due = turn.reservation and any(
        (refund.payment, refund.state) == (body["payment"], "refund_due") for refund in turn.reservation.refunds
    )
    return _answer(call, "confirm", turn, replayed=replayed, refund_due=body["payment"] if due else None)


async def release(call: Call) -> Answer:
    """The hold is not wanted any more; or (reason refund or rejected) a sale is undone. A buyer: his own hold only."""
    id, body = reservation_of(call), await _texts(call, "reason")
    identity = call.visit.identity
    async with asyncio.timeout(READ_SECONDS):
        turn = await call.door.gate.release(
            call.visit.sale, id, body["reason"], actor=_actor(call), buyer=identity.buyer
        )
    return _answer(call, "release", turn, replayed=turn.outcome is Outcome.RELEASED and not turn.changed)


async def settle(call: Call) -> Answer:
    """A payment that was due back has been refunded."""
    id, body = reservation_of(call), await _texts(call, "refund", "payment")
    async with asyncio.timeout(READ_SECONDS):
        turn = await call.door.gate.settle(
            call.visit.sale, id, body["refund"], actor=_actor(call), payment=body.get("payment", "")
        )
    return _answer(call, "settle", turn, replayed=turn.outcome is Outcome.SETTLED and not turn.changed)


def _actor(call: Call) -> str:
    identity = call.visit.identity
    return f"http:{identity.buyer or identity.name}"


async def _texts(call: Call, required: str, optional: str = "") -> dict[str, str]:
    expect_json(call.visit)
    return parse_texts(await read_body(call.request.receive), required, optional)


def _answer(call: Call, verb: str, turn: Turn, *, replayed: bool, refund_due: str | None = None) -> Answer:
    metrics.endings(verb, "replayed" if replayed else turn.outcome).inc()
    if turn.reservation is None:
        raise Refused("unknown_reservation")
    if turn.changed:
        call.door.batcher.touched.add(call.visit.sale)
    headers = [_REPLAYED] if replayed else []
    content = reservation_json(turn.reservation)
    if turn.outcome in _DONE:
        return json_answer(200, content, call.visit.request_id, *headers)
    members = {"reservation": content} | ({"refund_due": refund_due} if refund_due else {})
    return problem(turn.outcome, call.visit.request_id, "", *headers, members=members)
