"""A head that is known is read as the parser would read it, or left to the parser."""

import re
from typing import Any

import httptools
from hypothesis import given
from hypothesis import strategies as st

from gatekeeper.http import visit as visit_module
from gatekeeper.http.auth import Identity
from gatekeeper.http.heads import KnownHead, shape
from gatekeeper.http.visit import Visit

LINE = b"POST /v1/sales/s/reservations HTTP/1.1\r\n"
HEADERS = [(b"Host", b"x"), (b"Authorization", b"Bearer a"), (b"content-type", b"application/json")]
PLAIN = [(name.lower(), value) for name, value in HEADERS]
BODY = b'{"buyer":"bob"}'


def request(body: bytes = BODY, *more: tuple[bytes, bytes], length: bytes = b"") -> bytes:
    headers = [*HEADERS, (b"Content-Length", length or b"%d" % len(body)), *more]
    return LINE + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n" + body


class Parsed:
    """What httptools makes of one whole request."""

    def __init__(self, data: bytes) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.url, self.body, self.messages = b"", b"", 0
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(data)
        self.keep_alive = parser.should_keep_alive()

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.messages += 1


SHOP = Identity("main", "shop")


def let_in(parsed: Parsed, identity: Identity = SHOP) -> Visit:
    """What the desk makes of these headers."""
    visit = Visit("s", dict(parsed.headers))
    visit.enter(identity, frozenset(("shop", "buyer")))
    visit.read_key(required=False)
    return visit


def learn(data: bytes, identity: Identity = SHOP) -> KnownHead | None:
    parsed = Parsed(data)
    return KnownHead.learn(let_in(parsed, identity), data, parsed.body, parsed.headers)


def parts(visit: Visit) -> tuple[object, ...]:
    """A visit without what is made anew for each."""
    given = b"" if visit.request_id.startswith(visit_module._id_prefix) else visit.request_id
    return visit.sale, visit.identity, visit.key_given, visit.key if visit.key_given else "", given


def known(*more: tuple[bytes, bytes]) -> KnownHead:
    head = learn(request(BODY, *more))
    assert head
    return head


def test_the_next_request_with_the_same_head_is_read_with_its_own_values() -> None:
    head = known((b"Idempotency-Key", b"k1"), (b"X-Request-ID", b"r1"))
    data = request(BODY * 2, (b"Idempotency-Key", b"another-key"), (b"X-Request-ID", b"r.2"))
    found = head.read(data)
    assert found and parts(found[0]) == parts(let_in(Parsed(data))) and found[1] == BODY * 2
    assert head.read(request(BODY, (b"Idempotency-Key", b"k1"), (b"X-Request-ID", b"r1"))) is not None  # as at first


def test_another_head_is_left_to_the_parser() -> None:
    head = known((b"Idempotency-Key", b"k1"))
    for other in (
        request(), request(BODY, (b"idempotency-key", b"k1")), request(BODY, (b"Idempotency-Key", b"")),
        request(BODY, (b"Idempotency-Key", b"a b")), request(BODY, (b"Idempotency-Key", b"k" * 129)),
        request(BODY, (b"Idempotency-Key", b"k"), (b"Connection", b"close")),
        request(BODY, (b"Idempotency-Key", b"k\r\nTransfer-Encoding: chunked")),
        request(BODY, (b"Idempotency-Key", b"k"), length=b"1"),
        request(BODY, (b"Idempotency-Key", b"k"), length=b"016"),
        request(b"", (b"Idempotency-Key", b"k")), request(BODY, (b"Idempotency-Key", b"k"))[:-1],
        request(BODY, (b"Idempotency-Key", b"k")) + b"P", b"\r\n" + request(BODY, (b"Idempotency-Key", b"k")),
        request(BODY, (b"Idempotency-Key", b"k")).replace(b"/s/", b"/t/"),
        request(BODY, (b"Idempotency-Key", b"k")).replace(b"Bearer a", b"Bearer b"),
        request(BODY, (b"Idempotency-Key", b"k")).replace(b"\r\n", b"\n"), b"",
    ):  # fmt: skip
        assert head.read(other) is None, other


def test_what_is_not_written_plainly_is_not_learnt() -> None:
    plain = request(BODY, (b"Idempotency-Key", b"k"))
    for odd in (
        plain.replace(b"Key: k", b"Key:k"), plain.replace(b"Key: k", b"Key:  k"), plain.replace(b"Key: k", b"Key:\tk"),
        request(BODY, (b"x-twice", b"1"), (b"x-twice", b"2")), b"\r\n" + plain,
        LINE + b"host: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", LINE + b"host: x\r\n\r\n",
    ):  # fmt: skip
        assert learn(odd) is None, odd
    assert learn(plain) is not None
    assert learn(plain, Identity("buyer-token", "buyer", "bob")) is None  # tokens are verified each time


def test_a_head_that_is_long_is_not_learnt() -> None:
    assert learn(request(BODY, (b"x-long", b"y" * 2000))) is None


def test_the_shape_of_heads_that_differ_in_what_may_vary_is_the_same() -> None:
    one = Parsed(request(BODY, (b"Idempotency-Key", b"k1"), (b"x-a", b"1"))).headers
    assert shape(one) == shape(Parsed(request(BODY * 2, (b"Idempotency-Key", b"k2"), (b"x-a", b"1"))).headers)
    assert shape(one) != shape(Parsed(request(BODY, (b"Idempotency-Key", b"k1"), (b"x-a", b"2"))).headers)


def test_without_a_key_each_visit_gets_one_of_its_own() -> None:
    head = known()
    keys = [found[0].key for _ in range(3) if (found := head.read(request()))]
    assert len(set(keys)) == 3


PIECES = st.sampled_from(
    [
        b"\r\n",
        b"\n",
        b" ",
        b"\t",
        b":",
        b"k",
        b"1",
        b"\0",
        b"\xe4",
        b"\r\nx: y",
        b"\r\ncontent-length: 3",
        b"close",
        b"",
    ]
)


@given(st.data())
def test_whatever_a_request_becomes_it_is_read_as_the_parser_reads_it(data: Any) -> None:
    more = [(b"Idempotency-Key", b"k1"), (b"x-request-id", b"r"), (b"x-other", b"v")]
    chosen = data.draw(st.lists(st.sampled_from(more), unique=True))
    head, sent = known(*chosen), bytearray(request(BODY, *chosen))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(sent)))
        sent[at : at + data.draw(st.integers(0, 2))] = data.draw(PIECES)
    found = head.read(bytes(sent))
    if found is not None:
        parsed = Parsed(bytes(sent))
        assert parsed.messages == 1 and parsed.keep_alive
        assert parts(found[0]) == parts(let_in(parsed)) and found[1] == parsed.body
        assert all(dict(parsed.headers)[name] == value for name, value in PLAIN)
        assert re.fullmatch(rb"/v1/sales/s/reservations", parsed.url)
