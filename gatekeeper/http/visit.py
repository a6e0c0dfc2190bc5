"""One request as far as it is known: what its headers say, checked step by step. No ASGI in here."""

import re
from collections.abc import Iterable
from itertools import count
from secrets import token_hex, token_urlsafe

from gatekeeper.http.answers import Headers
from gatekeeper.http.auth import Identity
from gatekeeper.http.problems import Flaw, Refused, invalid
from gatekeeper.model import IDEMPOTENCY_KEY, SALE_NAME

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_KEY = "expected 1 to 128 printable ASCII characters without spaces"
_ONCE = frozenset((b"authorization", b"content-type", b"content-length", b"idempotency-key"))
# Of this process: what is made here must be unique, not secret, and a random number each would be a system call each.
_id_prefix, _key_prefix, _numbers = token_hex(6), token_urlsafe(9), count(1)


class Visit:
    """What is known of a request. `key` is "" until it is known; `identity` is set by `enter`."""

    __slots__ = ("headers", "identity", "key", "key_given", "request_id", "sale")
    identity: Identity

    def __init__(self, sale: str, headers: dict[bytes, bytes]) -> None:
        self.sale = sale
        self.headers = headers
        self.key = ""
        self.key_given = False  # by the client, not made here
        self.request_id = _request_id(headers.get(b"x-request-id"))

    def again(self, key: bytes, request_id: bytes | None) -> "Visit":
        """The next request of the same sender to the same end, of which only these headers are other ones."""
        visit = Visit.__new__(Visit)
        visit.sale, visit.identity, visit.key_given = self.sale, self.identity, self.key_given
        visit.key = key.decode() if self.key_given else _new_key()
        visit.request_id = _request_id(request_id)
        return visit

    def echo(self) -> Headers:
        """The headers that tell the client under which key it asked."""
        return [(b"idempotency-key", self.key.encode())] if self.key else []

    def enter(self, identity: Identity, roles: frozenset[str]) -> None:
        """Accept who asks, and that there can be a sale of this name; raises Refused."""
        self.identity = identity
        if identity.role not in roles:
            raise Refused("forbidden")
        if not SALE_NAME.fullmatch(self.sale):
            raise Refused("unknown_sale")

    def read_key(self, *, required: bool) -> None:
        """Take the Idempotency-Key header, or make a key where none is required; raises Refused."""
        given = self.headers.get(b"idempotency-key")
        if given is None:
            if required:
                raise Refused("idempotency_key_required")
            self.key = _new_key()
            return
        key = given.decode("latin-1")
        if not IDEMPOTENCY_KEY.fullmatch(key):
            raise invalid(Flaw("/header/idempotency-key", _KEY))
        self.key, self.key_given = key, True


def refuse_repeated(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raise Refused when a header that decides came twice: which one would a proxy have looked at?"""
    names = [name for name, _ in headers if name in _ONCE]
    for name in sorted(_ONCE):
        if names.count(name) > 1:
            raise invalid(Flaw(f"/header/{name.decode()}", "expected once"))


def _new_key() -> str:
    return f"{_key_prefix}-{next(_numbers):09x}"


def _request_id(given: bytes | None) -> str:
    """The client's own, if it is sane, else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode()
    return f"{_id_prefix}{next(_numbers):08x}"
