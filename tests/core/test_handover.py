"""What workers say to each other, however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.core.handover import (
    Message,
    MessageReader,
    decode_progress,
    encode,
    encode_progress,
)
from phantom.core.wire import MAX_RECORD_PLAINTEXT
from phantom.errors import RemoteProtocolError

KEY = b"K" * 32

messages = st.one_of(
    st.just((Message.LINK, KEY)),
    st.just((Message.ROOM, KEY)),
    st.just((Message.LOSE, b"")),
    st.tuples(st.just(Message.RECORD), st.binary(min_size=1, max_size=300)),
    st.tuples(st.just(Message.PROGRESS), st.binary(min_size=4, max_size=4)),
)


@given(st.lists(messages, max_size=12), st.lists(st.integers(1, 400)))
def test_every_chunking(sent: list[tuple[Message, bytes]], sizes: list[int]) -> None:
    wire = b"".join(encode(kind, payload) for kind, payload in sent)
    reader = MessageReader()
    received = []
    for size in [*sizes, len(wire)]:
        received += list(reader.receive(wire[:size]))
        wire = wire[size:]
    assert received == sent


@given(st.lists(st.binary(max_size=80)))
def test_anything_else_is_refused(pieces: list[bytes]) -> None:
    reader = MessageReader()
    try:
        for piece in pieces:
            for kind, payload in reader.receive(piece):
                assert encode(kind, payload)
    except RemoteProtocolError:
        pass


@pytest.mark.parametrize(
    "wire",
    [b"\0\0\0", b"\x06\0\0", b"\x01\0\x1f", b"\x02\0\0", b"\x02\xff\xf0", b"\x03\0\3", b"\x04\0\1"],
)
def test_a_wrong_header_is_refused_before_its_payload_comes(wire: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        list(MessageReader().receive(wire))


def test_the_longest_record_and_the_largest_count() -> None:
    record = bytes(MAX_RECORD_PLAINTEXT)
    assert list(MessageReader().receive(encode(Message.RECORD, memoryview(record)))) == [
        (Message.RECORD, record)
    ]
    ((_, payload),) = MessageReader().receive(encode_progress(1 << 40))
    assert decode_progress(payload) == 0xFFFFFFFF
