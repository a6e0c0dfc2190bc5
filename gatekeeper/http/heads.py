"""Heads of requests that need no second reading: a connection's purchases differ in a few values only.

A shop's backend sends the same head again and again; only key, length and request id change. What parser and desk
made of a head holds for every head that has the same bytes in all other places, so only those values are read from the
next one; whether the sender may still come in is asked each time.
"""

import re

from gatekeeper.http.answers import Headers
from gatekeeper.http.visit import Visit

MAX_LESSONS = 3
"""Heads that one connection may teach."""
MAX_HEAD = 2048
"""Bytes of a head that is worth learning, which takes some 250 µs, longer the longer it is."""

# Header → what its value may look like here, which is no more than the desk takes. Any other is for the parser.
_VARYING = {
    b"content-length": rb"[1-9][0-9]{0,4}",
    b"idempotency-key": rb"[!-~]{1,128}",
    b"x-request-id": rb"[!-~]{1,64}",
}


def shape(headers: Headers) -> Headers:
    """What two requests have in common whose heads differ in nothing but what may vary."""
    return [(name, b"" if name in _VARYING else value) for name, value in headers]


class KnownHead:
    """A head that the parser has read, and the desk has let in."""

    __slots__ = ("_key", "_length", "_match", "_request_id", "_visit", "authorization")

    def __init__(self, visit: Visit, authorization: bytes, pattern: bytes, names: list[bytes]) -> None:
        self._visit, self.authorization = visit, authorization
        self._match = re.compile(pattern).match
        # Where each value stands among the pattern's groups; 0: nowhere.
        places = {name: place for place, name in enumerate(names, 1)}
        self._length, self._key, self._request_id = (places.get(name, 0) for name in _VARYING)

    @classmethod
    def learn(cls, visit: Visit, data: bytes, body: bytes, headers: Headers) -> "KnownHead | None":
        """Learn from a whole request of which the parser made these headers and this body; None: it is not simple."""
        known, head_size = dict(headers), len(data) - len(body)
        if head_size > MAX_HEAD:
            return None
        first, *lines = data[:head_size].split(b"\r\n")
        names, pattern = [], [re.escape(first)]
        # One line a header, each exactly as the parser read it, nothing folded, nothing twice.
        if lines[-2:] != [b"", b""] or not len(lines) - 2 == len(headers) == len(known):
            return None
        for line, (name, value) in zip(lines, headers, strict=False):
            start = line[: len(line) - len(value)]
            if start.lower() != name + b": " or line != start + value or b"\n" in line:
                return None
            if name in _VARYING:
                names.append(name)
                pattern.append(re.escape(start) + b"(" + _VARYING[name] + b")")
            else:
                pattern.append(re.escape(line))
        # A buyer's token must be verified each time, and says who it is anew.
        if visit.identity.role == "buyer" or b"content-length" not in names:
            return None
        head = cls(visit, known[b"authorization"], b"\r\n".join(pattern) + b"\r\n\r\n", names)
        return head if head.read(data) else None

    def read(self, data: bytes) -> tuple[Visit, bytes] | None:
        """Return what a whole request with this head comes to, and its body; None: it is another, or not whole."""
        found = self._match(data)
        if found is None:
            return None
        body = data[found.end() :]
        if len(body) != int(found[self._length]):
            return None
        request_id = found[self._request_id] if self._request_id else None
        return self._visit.again(found[self._key], request_id), body
