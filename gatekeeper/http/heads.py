"""Heads of requests that need no second reading: a connection's purchases differ in a few values only.

A shop's backend sends the same head again and again; only key, length and request id change. What the parser made of a
head holds for every head that has the same bytes in all other places, so only those values are read from the next one.
"""

import re

MAX_LESSONS = 3
"""Heads that one connection may teach: one whose head changes all the time is not worth learning from."""

# Header → what its value may look like here. Any other value, however valid, is for the parser.
_VARYING = {
    b"content-length": rb"[1-9][0-9]{0,4}",
    b"idempotency-key": rb"[!-~]{1,128}",
    b"x-request-id": rb"[!-~]{1,64}",
}


class KnownHead:
    """A head that the parser has read, and judged to be that of a plain purchase."""

    __slots__ = ("_groups", "_headers", "_match", "sale")

    def __init__(self, sale: str, headers: dict[bytes, bytes], names: list[bytes], pattern: bytes) -> None:
        self.sale = sale
        self._headers, self._groups = headers, list(enumerate(names, 1))
        self._match = re.compile(pattern).match

    @classmethod
    def learn(cls, sale: str, data: bytes, body: bytes, headers: list[tuple[bytes, bytes]]) -> "KnownHead | None":
        """Learn from a whole request of which the parser made these headers and this body; None: it is not simple."""
        head = data[: len(data) - len(body)]
        first, *lines = head.split(b"\r\n")
        names, pattern = [], [re.escape(first)]
        # One line a header, each exactly as the parser read it, nothing folded, nothing twice.
        if lines[-2:] != [b"", b""] or len(lines) - 2 != len(headers) or len(dict(headers)) != len(headers):
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
        if b"content-length" not in names:
            return None
        known = cls(sale, dict(headers), names, b"\r\n".join(pattern) + b"\r\n\r\n")
        return known if known.read(data) == (dict(headers), body) else None

    def read(self, data: bytes) -> tuple[dict[bytes, bytes], bytes] | None:
        """Return headers and body of a whole request with this head; None: it is another, or it is not whole."""
        found = self._match(data)
        if found is None:
            return None
        headers = self._headers.copy()
        for number, name in self._groups:
            headers[name] = found[number]
        body = data[found.end() :]
        return (headers, body) if len(body) == int(headers[b"content-length"]) else None
