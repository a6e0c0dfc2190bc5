"""The contract as OpenAPI 3.1, built from the same tables that the code answers from."""

from typing import Any

from gatekeeper import __version__
from gatekeeper.http.problems import KINDS, problem_type
from gatekeeper.http.validation import MAX_TEXT
from gatekeeper.model import IDEMPOTENCY_KEY, MAX_INT, MAX_ITEMS, RESERVATION_ID, SALE_NAME, SKU

Json = dict[str, Any]

_NOT_NOW = ("sale_fenced", "gate_unavailable")
_ACCESS = ("unauthorized", "forbidden", "unknown_sale")
_BODY = ("request_timeout", "payload_too_large")
PURCHASE_CODES = (
    *("sold_out", "buyer_limit", "sale_not_open", "sale_paused", "sku_paused", "sale_closed", "unknown_sku"),
    *("invalid_request", "idempotency_key_required", "idempotency_mismatch", "unsupported_media_type"),
    *("overloaded", "backlog_full", "internal_error"),
    *(*_NOT_NOW, *_ACCESS, *_BODY),
)
_READ_CODES = ("invalid_request", "internal_error", "sale_closed", *_NOT_NOW, *_ACCESS)
_ENDING_CODES = ("unknown_reservation", "unsupported_media_type", *_READ_CODES, *_BODY)
_CONTROL_CODES = ("sale_not_open", "sale_paused", *_READ_CODES, *_BODY)


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: Json, optional: Json | None = None, *, closed: bool = False) -> Json:
    schema: Json = {"type": "object", "required": list(required), "properties": {**required, **(optional or {})}}
    return {**schema, "additionalProperties": False} if closed else schema


def _string(pattern: str = "", **more: object) -> Json:
    return {"type": "string", **({"pattern": f"^{pattern}$"} if pattern else {}), **more}


def _array(items: Json, **more: object) -> Json:
    return {"type": "array", "items": items, **more}


_TEXT = _string(minLength=1, maxLength=MAX_TEXT, description="Not blank; no control characters.")
_TIME = _string(format="date-time")
_UNITS: Json = {"type": "integer", "minimum": 0, "maximum": MAX_INT}
_TIME_OR_NULL: Json = {"type": ["string", "null"], "format": "date-time"}
_NUMBER_OR_NULL: Json = {"type": ["integer", "null"], "minimum": 0, "maximum": MAX_INT}
_SKU = _string(SKU.pattern)
_SALE = _string(SALE_NAME.pattern)
_KEY = _string(IDEMPOTENCY_KEY.pattern)
_ID = _string(RESERVATION_ID.pattern)
_STATE = _string(enum=["draft", "open", "paused", "closed", "archived"])

_SALE_MEMBERS: Json = {
    "sale": _SALE,
    "state": _STATE,
    "opens_at": _TIME_OR_NULL,
    "closes_at": _TIME_OR_NULL,
    "per_buyer": {**_NUMBER_OR_NULL, "description": "Units one buyer may have; null: no limit."},
    "hold_seconds": {"type": "number"},
    "now": {**_TIME, "description": "The clock that judges every deadline."},
    "sku_count": _UNITS,
    "skus": _array(_ref("Availability")),
    "next": {"type": ["string", "null"], "description": "Pass it as `after` for the next page; null on the last."},
}

SCHEMAS: Json = {
    "Item": _object({"sku": _SKU, "quantity": {**_UNITS, "minimum": 1}}, closed=True),
    "Purchase": _object(
        {"buyer": _TEXT, "items": _array(_ref("Item"), minItems=1, maxItems=MAX_ITEMS)},
        {"reference": _TEXT},
        closed=True,
    ),
    "Reservation": _object(
        {
            "id": _ID,
            "sale": _SALE,
            "buyer": _TEXT,
            "items": _array(_ref("Item")),
            "state": _string(enum=["held", "sold", "released", "expired"]),
            "late": {"type": "boolean", "description": "Sold after its deadline."},
            "idempotency_key": _KEY,
            "created_at": _TIME,
            "expires_at": _TIME,
        },
        {"reference": _TEXT, "payment": _TEXT, "refunds": _array(_ref("Refund"))},
    ),
    "Refund": _object(
        {"payment": _TEXT, "state": _string(enum=["refund_due", "refunded", "rejected"])}, {"refund": _TEXT}
    ),
    "Payment": _object({"payment": _TEXT}, closed=True),
    "Reason": _object(
        {
            "reason": {
                **_TEXT,
                "description": "Of a sold reservation: `refund` (its payment becomes due back) or `rejected`.",
            }
        },
        closed=True,
    ),
    "Settlement": _object(
        {"refund": _TEXT},
        {"payment": {**_TEXT, "description": "Which payment; needed when several are due back."}},
        closed=True,
    ),
    "Availability": _object(
        {
            "sku": _SKU,
            "available": {**_NUMBER_OR_NULL, "description": "null: not limited by stock."},
            "held": _UNITS,
            "sold": _UNITS,
            "granted": _NUMBER_OR_NULL,
            "tracked": {"type": "boolean"},
            "paused": {"type": "boolean"},
        }
    ),
    "Sale": _object(_SALE_MEMBERS),
    "Status": _object(
        {
            **_SALE_MEMBERS,
            "epoch": {"type": "integer", "description": "Generation of the sale's state."},
            "pending": {"type": "integer", "description": "Events that the ledger has not applied yet."},
            "next_deadline": {**_TIME_OR_NULL, "description": "Of the hold that is due first."},
            "checkpoint": {
                "type": ["object", "null"],
                "description": "The newest comparison with the ledger.",
                "properties": {
                    "result": _string(enum=["equal", "unproven", "drift"]),
                    "position": _string(),
                    "at": _TIME,
                    "skus": _UNITS,
                },
            },
            "page_totals": _object({unit: {"type": "integer"} for unit in ("available", "held", "sold", "granted")}),
        }
    ),
    "Changed": _object({"sale": _SALE, "state": _STATE, "changed": {"type": "boolean"}}),
    "Problem": _object(
        {
            "type": _string(enum=[problem_type(code) for code in KINDS], format="uri"),
            "title": _string(),
            "status": {"type": "integer"},
            "detail": _string(),
            "code": _string(enum=list(KINDS)),
            "request_id": _string("[A-Za-z0-9._-]{1,64}"),
        },
        {
            "errors": _array(_object({"pointer": _string(), "detail": _string()})),
            "items": _array(
                _object({"sku": _SKU, "requested": _UNITS, "available": _UNITS, "held": _UNITS}), description="sold_out"
            ),
            "skus": _array(_SKU, description="unknown_sku, sku_paused"),
            "limit": {**_UNITS, "description": "buyer_limit"},
            "opens_at": {**_TIME, "description": "sale_not_open"},
            "reservation": {**_ref("Reservation"), "description": "confirm, release, settle: as it is now"},
            "refund_due": {**_TEXT, "description": "confirm: this payment is to be refunded"},
            "idempotency_key": {**_KEY, "description": "503 of a purchase: ask again with it."},
        },
    ),
}

_HEADERS: Json = {"X-Request-Id": {"schema": _string(), "description": "Yours if sane, else made here."}}


def _content(schema: str) -> Json:
    return {"application/json": {"schema": _ref(schema)}}


def _ok(description: str, schema: str, *headers: str) -> Json:
    more = {name: {"schema": _string()} for name in headers}
    return {"description": description, "headers": {**_HEADERS, **more}, "content": _content(schema)}


def _problems(codes: tuple[str, ...]) -> Json:
    """One response per status, naming every code that it may carry."""
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(KINDS[code].status, []).append(code)
    return {str(status): _problem(codes) for status, codes in sorted(by_status.items())}


def _problem(codes: list[str]) -> Json:
    lines = "\n".join(f"- `{code}`: {KINDS[code].detail}" for code in codes)
    headers = dict(_HEADERS)
    if any(KINDS[code].retry_after or code == "sale_not_open" for code in codes):
        headers["Retry-After"] = {"schema": {"type": "integer"}, "description": "Seconds."}
    content = {"application/problem+json": {"schema": _ref("Problem")}}
    return {"description": lines, "headers": headers, "content": content}


def _parameter(where: str, name: str, schema: Json, *, required: bool, description: str = "") -> Json:
    return {"in": where, "name": name, "required": required, "schema": schema, "description": description}


_PATH_SALE = _parameter("path", "sale", _SALE, required=True)
_PATH_ID = _parameter("path", "id", _ID, required=True)
_PAGING = [
    _parameter("query", "sku", _array(_SKU, maxItems=1000), required=False, description="Repeat it for several."),
    _parameter("query", "after", _SKU, required=False, description="The `next` of the page before."),
    _parameter("query", "limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}, required=False),
]


def _operation(name: str, summary: str, parameters: list[Json], ok: Json, codes: tuple[str, ...], **more: Any) -> Json:
    responses = {**ok, **_problems(codes)}
    return {"operationId": name, "summary": summary, "parameters": parameters, **more, "responses": responses}


def _control(action: str) -> Json:
    ok = {"200": _ok("The sale's state now.", "Changed")}
    return {"post": _operation(f"{action}Sale", f"{action.capitalize()} a sale.", [_PATH_SALE], ok, _CONTROL_CODES)}


def _ending(verb: str, summary: str, body: str, *codes: str) -> Json:
    ok = {"200": _ok("The reservation as it is now.", "Reservation", "Idempotent-Replayed")}
    more = {"requestBody": {"required": True, "content": _content(body)}}
    parameters = [_PATH_SALE, _PATH_ID]
    return {"post": _operation(f"{verb}Reservation", summary, parameters, ok, (*codes, *_ENDING_CODES), **more)}


def _probe(name: str, summary: str, media: str, codes: tuple[str, ...] = ()) -> Json:
    ok = {"200": {"description": summary, "content": {media: {}}}}
    return {"get": {**_operation(name, summary, [], ok, codes), "security": []}}


_RESERVATIONS: Json = {
    "post": _operation(
        "reserve",
        "Reserve units: all items or none.",
        [
            _PATH_SALE,
            _parameter(
                "header",
                "Idempotency-Key",
                _KEY,
                required=False,
                description="The same key again has no second effect. Required for buyer tokens; made if absent.",
            ),
        ],
        {
            "201": _ok("Reserved.", "Reservation", "Location", "Idempotency-Key"),
            "200": _ok(
                "Was reserved before with this key.",
                "Reservation",
                "Location",
                "Idempotency-Key",
                "Idempotent-Replayed",
            ),
        },
        PURCHASE_CODES,
        requestBody={"required": True, "content": _content("Purchase")},
    ),
    "get": _operation(
        "findReservation",
        "Find the reservation that a purchase made, if its answer got lost. Never creates one.",
        [
            _PATH_SALE,
            _parameter("query", "buyer", _TEXT, required=False, description="Required with an API key."),
            _parameter("header", "Idempotency-Key", _KEY, required=True),
        ],
        {"200": _ok("The reservation as it is now.", "Reservation", "Idempotency-Key")},
        ("unknown_reservation", "idempotency_key_required", *_READ_CODES),
    ),
}

SPEC: Json = {
    "openapi": "3.1.0",
    "info": {
        "title": "Gatekeeper",
        "version": __version__,
        "description": "Limited stock, a moment when it goes on sale, and more buyers than units. Errors are RFC 9457 "
        "problems. Any 503 leaves the outcome unknown: ask again with the same idempotency key.",
    },
    "security": [{"bearer": []}],
    "paths": {
        "/v1/sales/{sale}/reservations": _RESERVATIONS,
        "/v1/sales/{sale}/reservations/{id}": {
            "get": _operation(
                "getReservation",
                "Get a reservation.",
                [_PATH_SALE, _PATH_ID],
                {"200": _ok("The reservation as it is now.", "Reservation")},
                ("unknown_reservation", *_READ_CODES),
            )
        },
        "/v1/sales/{sale}/reservations/{id}/confirm": _ending(
            "confirm",
            "A payment arrived: make the hold a sale. Not for buyer tokens.",
            "Payment",
            *("hold_expired", "not_held", "payment_mismatch"),
        ),
        "/v1/sales/{sale}/reservations/{id}/release": _ending(
            "release", "Give the units back. A buyer token: its own hold only.", "Reason", "hold_expired", "not_held"
        ),
        "/v1/sales/{sale}/reservations/{id}/settle": _ending(
            "settle",
            "A payment that was due back has been refunded. Not for buyer tokens.",
            "Settlement",
            *("nothing_due", "refund_mismatch", "payment_ambiguous"),
        ),
        "/v1/sales/{sale}": {
            "get": _operation(
                "getSale",
                "Get a sale: state, window, availability. Not for buyer tokens.",
                [_PATH_SALE, *_PAGING],
                {"200": _ok("The sale.", "Sale")},
                ("unknown_sku", *_READ_CODES),
            )
        },
        "/v1/admin/sales/{sale}/status": {
            "get": _operation(
                "getStatus",
                "Get what an operator wants to know of a sale.",
                [_PATH_SALE, *_PAGING],
                {"200": _ok("The sale and its insides.", "Status")},
                ("unknown_sku", *_READ_CODES),
            )
        },
        **{f"/v1/admin/sales/{{sale}}/{action}": _control(action) for action in ("open", "pause", "resume", "close")},
        "/livez": _probe("livez", "This process answers.", "application/json"),
        "/readyz": _probe("readyz", "This door should get traffic.", "application/json", ("not_ready",)),
        "/metrics": _probe("metrics", "Prometheus metrics.", "text/plain"),
        "/openapi.json": _probe("openapi", "This document.", "application/json"),
        "/docs": _probe("docs", "This document for people.", "text/html"),
    },
    "components": {
        "securitySchemes": {
            "bearer": {
                "type": "http",
                "scheme": "bearer",
                "description": "An API key (shop, admin), or a buyer token: a JWT with sub = buyer, aud = sale, exp.",
            }
        },
        "schemas": SCHEMAS,
    },
}
