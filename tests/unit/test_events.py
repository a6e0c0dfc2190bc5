"""An event is exactly what a script writes, or it is malformed: nothing is optional, nothing defaults."""

import pytest

from gatekeeper.events import (
    Admit,
    Checkpoint,
    CheckpointLine,
    Confirm,
    Control,
    Discard,
    Epoch,
    Event,
    Expire,
    Grant,
    GrantLine,
    MalformedEvent,
    Release,
    Settle,
    parse,
)
from gatekeeper.model import Position, Refund, Reservation

ID = "0123456789abcdef" * 2
DISCARDED = Reservation(
    "", ID, "released", False, "", 5, 65, "bob", "k1", "", (("A", 2),), (Refund("p1", "refund_due"),)
)
EVENTS: dict[bytes, Event] = {
    f"admit\n5\n{ID}\n65\nbób\nk1\norder 7\nA 2 B 1\n".encode(): Admit(
        5, ID, 65, "bób", "k1", "order 7", (("A", 2), ("B", 1))
    ),
    b"grant\n5\n2\ncli:eve\n\nA 5 1 U 0 0 B -3 1\n": Grant(
        5, 2, "cli:eve", "", (GrantLine("A", 5, True), GrantLine("U", 0, False), GrantLine("B", -3, True))
    ),
    b"control\n5\nopen\ncli\nopen\n0\n9\n2\n60000\n\n": Control(5, "open", "cli", "open", 0, 9, 2, 60000, ""),
    f"confirm\n5\n{ID}\nshop\np 1\nlate\n".encode(): Confirm(5, ID, "shop", "p 1", "late"),
    f"release\n5\n{ID}\nshop\nsold\nrefund\n".encode(): Release(5, ID, "shop", "sold", "refund"),
    f"expire\n5\n{ID}\n".encode(): Expire(5, ID),
    f"settle\n5\n{ID}\nshop\np1\nr1\n".encode(): Settle(5, ID, "shop", "p1", "r1"),
    f"discard\n5\n{ID}\ncli\nbad\n12\nreleased\n0\n\n5\n65\nbob\nk1\n\nA 2\np1\nrefund_due\n\n".encode(): Discard(
        5, ID, "cli", "bad", DISCARDED
    ),
    b"checkpoint\n5\n7\nA 1 2 3 6\n": Checkpoint(5, 7, (CheckpointLine("A", 1, 2, 3, 6),)),
    b"epoch\n5\n1-7\ncontroller\n": Epoch(5, Position(1, 7), "controller"),
}
each_event = pytest.mark.parametrize("payload", EVENTS, ids=lambda payload: payload.split(b"\n")[0].decode())


@each_event
def test_what_a_script_writes_is_read_whole(payload: bytes) -> None:
    assert parse(payload) == EVENTS[payload]


@each_event
def test_a_payload_cut_at_any_byte_is_refused(payload: bytes) -> None:
    for end in range(len(payload)):
        with pytest.raises(MalformedEvent):
            parse(payload[:end])


@each_event
def test_one_field_more_is_refused(payload: bytes) -> None:
    for extra in (payload + b"\n", payload + b"x\n", payload + b"x", b"\n" + payload):
        with pytest.raises(MalformedEvent):
            parse(extra)


@pytest.mark.parametrize(
    "payload",
    [
        b"refund\n5\n",
        b"ADMIT\n5\n",
        f"admit\n5\n{ID}\n65\nb\xff\nk1\n\nA 1\n".encode("latin-1"),
        f"admit\n+5\n{ID}\n65\nbob\nk1\n\nA 1\n".encode(),
        f"admit\n5\n{ID}\n65.0\nbob\nk1\n\nA 1\n".encode(),
        f"admit\n5\n{ID}\n-65\nbob\nk1\n\nA 1\n".encode(),
        f"admit\n5\n{ID[:-1]}\n65\nbob\nk1\n\nA 1\n".encode(),
        f"admit\n5\n{ID}\n65\n\nk1\n\nA 1\n".encode(),
        f"admit\n5\n{ID}\n65\nbob\n\n\nA 1\n".encode(),
        f"admit\n5\n{ID}\n65\nbob\nk1\n\n\n".encode(),
        f"admit\n5\n{ID}\n65\nbob\nk1\n\nA 0\n".encode(),
        b"grant\n5\n2\ncli\n\nA 5 yes\n",
        b"grant\n5\n2\ncli\n\nA 5\n",
        f"confirm\n5\n{ID}\nshop\np1\nlost\n".encode(),
        f"confirm\n5\n{ID}\nshop\n\nsold\n".encode(),
        f"release\n5\n{ID}\nshop\nexpired\nrefund\n".encode(),
        f"settle\n5\n{ID}\nshop\np1\n\n".encode(),
        b"expire\n5\nA\n",
        b"checkpoint\n5\n7\nA 1 2 3 -6\n",
        b"checkpoint\n5\n-7\nA 1 2 3 6\n",
        b"epoch\n5\n1\ncontroller\n",
    ],
)
def test_a_malformed_field_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedEvent):
        parse(payload)
