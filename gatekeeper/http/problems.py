"""Everything that is refused, as RFC 9457 problems: one table of codes, one way to render them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from gatekeeper.errors import GateError, Overloaded, SaleArchived, SaleFenced, UnknownSale
from gatekeeper.http.answers import Answer, Headers, basics

PROBLEM_JSON = b"application/problem+json"


class Kind(NamedTuple):
    """What is the same for every problem of a code. `retry_after` in seconds; 0: no such header."""

    status: int
    title: str
    detail: str
    retry_after: int = 0


KINDS: Mapping[str, Kind] = {
    # the sale's state refuses you
    "sold_out": Kind(409, "Sold out", "Fewer units are available than were asked for. Held units may come back."),
    "buyer_limit": Kind(409, "Buyer limit", "This buyer would have more units than one buyer may have in this sale."),
    "sale_not_open": Kind(409, "Sale not open", "The sale has not opened yet."),
    "sale_paused": Kind(409, "Sale paused", "The sale is paused; it may go on.", 5),
    "sku_paused": Kind(409, "SKU paused", "At least one of the SKUs is paused; it may go on.", 5),
    "sale_closed": Kind(409, "Sale closed", "The sale is over."),
    "hold_expired": Kind(409, "Hold expired", "The hold ended at its deadline, and its units are not there any more."),
    "not_held": Kind(409, "Not held", "The reservation is in a state that does not allow this."),
    "payment_mismatch": Kind(409, "Payment mismatch", "Another payment made this sale; refund this one."),
    "nothing_due": Kind(409, "Nothing due", "No payment of this reservation is due back."),
    "refund_mismatch": Kind(409, "Refund mismatch", "The payment was refunded by another refund."),
    "payment_ambiguous": Kind(409, "Payment ambiguous", "Several payments are due back: name one as `payment`."),
    # not now: nobody knows, or nothing was decided
    "sale_fenced": Kind(503, "Sale fenced", "The sale's state is being proven; ask again with the same key.", 1),
    "gate_unavailable": Kind(503, "Gate unavailable", "The outcome is unknown; ask again with the same key.", 1),
    "overloaded": Kind(503, "Overloaded", "Too many requests wait here; ask again with the same key.", 1),
    "backlog_full": Kind(503, "Backlog full", "The ledger is behind; ask again with the same key.", 1),
    "not_ready": Kind(503, "Not ready", "This front door does not serve yet, or is stopping.", 1),
    # not there
    "unknown_sale": Kind(404, "Unknown sale", "There is no sale of that name."),
    "unknown_sku": Kind(404, "Unknown SKU", "The sale has no such SKU."),
    "unknown_reservation": Kind(404, "Unknown reservation", "There is no such reservation, or it is not yours."),
    "not_found": Kind(404, "Not found", "There is nothing at this path; /docs lists what there is."),
    # your request
    "invalid_request": Kind(400, "Invalid request", "The request is malformed; `errors` says where."),
    "idempotency_key_required": Kind(
        400, "Idempotency key required", "A buyer token needs an Idempotency-Key header: 1 to 128 printable characters."
    ),
    "idempotency_mismatch": Kind(
        422, "Idempotency mismatch", "This buyer used this idempotency key for other items before."
    ),
    "unauthorized": Kind(401, "Unauthorized", "Send `Authorization: Bearer …` with an API key or a buyer token."),
    "forbidden": Kind(403, "Forbidden", "These credentials may not do this."),
    "method_not_allowed": Kind(405, "Method not allowed", "This path answers other methods; see the Allow header."),
    "request_timeout": Kind(408, "Request timeout", "The body did not arrive in time."),
    "payload_too_large": Kind(413, "Payload too large", "The body may have 16,384 bytes at most."),
    "headers_too_large": Kind(431, "Headers too large", "At most 100 headers, and 32,768 bytes in all."),
    "unsupported_media_type": Kind(415, "Unsupported media type", "The body must be application/json."),
    "internal_error": Kind(500, "Internal error", "Something broke here; the log knows more under this request_id."),
}


def problem_type(code: str) -> str:
    """The URI that names a kind of problem, the same on every installation."""
    return f"urn:gatekeeper:problem:{code}"


class Form(NamedTuple):
    """A problem of which only the request is still to be filled in: most answers of a sale are the same refusal."""

    status: int
    opening: bytes
    """The body up to the request's id, which is its last member."""
    headers: Headers

    def filled_in(self, request_id: str, *more: tuple[bytes, bytes]) -> Answer:
        """Render it for one request; `more` are headers."""
        body = b'%b"%b"}' % (self.opening, request_id.encode())  # an id has no characters that JSON would escape
        return Answer(self.status, [*basics(PROBLEM_JSON, body, request_id), *self.headers, *more], body)


def form(code: str, detail: str = "", *more: tuple[bytes, bytes], members: Mapping[str, Any] | None = None) -> Form:
    """Render the problem `code` for anybody; `detail` replaces the kind's own, `members` extend it."""
    kind = KINDS[code]
    content = {
        "type": problem_type(code), "title": kind.title, "status": kind.status, "detail": detail or kind.detail,
        "code": code, **(members or {}),
    }  # fmt: skip
    retry = [(b"retry-after", b"%d" % kind.retry_after)] if kind.retry_after else []
    return Form(kind.status, orjson.dumps(content)[:-1] + b',"request_id":', [*retry, *more])


_FORMS = {code: form(code) for code in KINDS}


def problem(
    code: str, request_id: str, detail: str = "", *more: tuple[bytes, bytes], members: Mapping[str, Any] | None = None
) -> Answer:
    """Render the problem `code`; `detail` replaces the kind's own, `members` extend it, `more` are headers."""
    form_ = form(code, detail, members=members) if detail or members else _FORMS[code]
    return form_.filled_in(request_id, *more)


class Refused(Exception):
    """A request that ends in a problem before the gate is asked; `members` and `headers` extend the problem."""

    def __init__(self, code: str, detail: str = "", *headers: tuple[bytes, bytes], **members: Any) -> None:
        super().__init__(code)
        self.code, self.detail, self.headers, self.members = code, detail, headers, members

    def answer(self, request_id: str, *more: tuple[bytes, bytes]) -> Answer:
        """Render it."""
        return problem(self.code, request_id, self.detail, *self.headers, *more, members=self.members)


class Flaw(NamedTuple):
    """One thing wrong with a request; `pointer` is a JSON pointer into the body, or /query/… or /header/…"""

    pointer: str
    detail: str


def invalid(*flaws: Flaw) -> Refused:
    """The 400 that names every flaw."""
    return Refused("invalid_request", errors=[flaw._asdict() for flaw in flaws])


def gate_code(error: GateError) -> str:
    """The code under which an error of the gate is told to a client; its text stays in the log."""
    match error:
        case UnknownSale():
            return "unknown_sale"
        case SaleFenced():
            return "sale_fenced"
        case SaleArchived():
            return "sale_closed"
        case Overloaded():
            return "overloaded"
        case _:
            return "gate_unavailable"
