"""What goes back to a client, before ASGI turns it into messages: answers, reservations and sales as JSON."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from gatekeeper.model import Counters, Refund, Reservation, SaleView, Value

Header = tuple[bytes, bytes]
"""(lower-case name, value), as ASGI has them."""
Headers = list[Header]

JSON = b"application/json"


class Answer(Value, frozen=True):
    """A whole response; `headers` include content-type and content-length."""

    status: int
    headers: Headers
    body: bytes


def json_answer(status: int, content: object, request_id: str, *more: tuple[bytes, bytes]) -> Answer:
    """Render `content`; `more` headers follow the usual three."""
    body = orjson.dumps(content)
    return Answer(status, [*basics(JSON, body, request_id), *more], body)


def basics(content_type: bytes, body: bytes, request_id: str) -> Headers:
    """The headers that every answer has."""
    return [
        (b"content-type", content_type),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
    ]


@lru_cache(4096)  # a batch shares its two times: rendering them anew would cost a purchase 2 µs
def rfc3339(ms: int) -> str:
    """Render ms since 1970 as RFC 3339 in UTC with milliseconds: 2026-11-27T09:00:00.000Z."""
    try:
        time = datetime.fromtimestamp(ms // 1000, UTC)
    except (ValueError, OverflowError):  # past the year 9999
        time = datetime.max
    return f"{time:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


def reservation_json(r: Reservation) -> dict[str, Any]:
    """A reservation's members; `reference`, `payment` and `refunds` only where there is one."""
    content: dict[str, Any] = {"id": r.id, "sale": r.sale, "buyer": r.buyer}
    if r.reference:
        content["reference"] = r.reference
    content["items"] = [{"sku": sku, "quantity": quantity} for sku, quantity in r.items]
    content["state"] = r.state
    content["late"] = r.late
    if r.payment:
        content["payment"] = r.payment
    if r.refunds:
        content["refunds"] = [_refund_json(refund) for refund in r.refunds]
    content["idempotency_key"] = r.idempotency_key
    content["created_at"] = rfc3339(r.created_ms)
    content["expires_at"] = rfc3339(r.expires_ms)
    return content


def _refund_json(refund: Refund) -> dict[str, str]:
    content = {"payment": refund.payment, "state": refund.state}
    return {**content, "refund": refund.refund} if refund.refund else content


def sale_json(view: SaleView) -> dict[str, Any]:
    """A sale with one page of its SKUs; `next` is what to pass as `after`, or null on the last page."""
    return {
        "sale": view.sale,
        "state": view.state,
        "opens_at": rfc3339(view.opens_at_ms) if view.opens_at_ms else None,
        "closes_at": rfc3339(view.closes_at_ms) if view.closes_at_ms else None,
        "per_buyer": view.per_buyer or None,
        "hold_seconds": view.hold_ms / 1000,
        "now": rfc3339(view.now_ms),
        "sku_count": view.sku_count,
        "skus": [_sku_json(sku, counters) for sku, counters in view.skus.items()],
        "next": view.next or None,
    }


def status_json(view: SaleView) -> dict[str, Any]:
    """What an operator sees of a sale: its page, the totals of that page, its epoch and what the ledger lacks."""
    units = ("available", "held", "sold", "granted")
    tracked = [counters for counters in view.skus.values() if counters.tracked]
    totals = {unit: sum(getattr(counters, unit) for counters in tracked) for unit in units}
    checked = view.checkpoint
    return {
        **sale_json(view),
        "epoch": view.epoch,
        "pending": view.pending,
        "next_deadline": rfc3339(view.deadline_ms) if view.deadline_ms else None,
        "checkpoint": {
            "result": checked.result,
            "position": checked.position,
            "at": rfc3339(checked.at_ms),
            "skus": checked.skus,
        }
        if checked
        else None,
        "page_totals": totals,
    }


def _sku_json(sku: str, c: Counters) -> dict[str, Any]:
    return {
        "sku": sku,
        "available": c.available if c.tracked else None,
        "held": c.held,
        "sold": c.sold,
        "granted": c.granted if c.tracked else None,
        "tracked": c.tracked,
        "paused": c.paused,
    }
