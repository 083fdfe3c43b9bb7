"""What an authenticated peer's nonsense of a few bytes can end: its own session."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from support.tunnel import SOMEWHERE, Joined

from phantom.core.block_pool import BlockPool
from phantom.core.wire import FrameType, encode_open, pack_frame
from phantom.errors import Outcome
from phantom.tunnel.mux import MultiplexerProtocol
from phantom.tunnel.session import Session

OPEN = pack_frame(FrameType.STREAM_OPEN, 1, encode_open(SOMEWHERE, 16384))


def bystander(joined: Joined) -> MultiplexerProtocol:
    """Return another client's multiplexer at the same server."""
    mux = MultiplexerProtocol(joined.runtime, joined.limits, client=True)
    session = Session(
        joined.runtime,
        b"B" * 16,
        mux,
        BlockPool(),
        on_detached=lambda session, reason: None,
        on_end=lambda session, reason: None,
    )
    joined._link(session.begin)
    joined.run(0.0)
    return mux


@settings(max_examples=60)
@given(
    header=st.binary(min_size=6, max_size=6)
    | st.builds(
        lambda kind, stream_id: bytes((kind, 0, 0, stream_id, 0, 0)),
        st.integers(0, 255),
        st.integers(0, 2),
    )
)
def test_six_bytes_end_no_more_than_the_session_of_who_sent_them(header: bytes) -> None:
    joined = Joined()
    rogue = joined.client_link
    mux = bystander(joined)
    rogue.send_record(OPEN)
    rogue.send_record(header)
    joined.run()
    outcomes: list[Outcome] = []
    mux.open(SOMEWHERE, outcomes.append)
    joined.run()
    assert outcomes == [Outcome.CONNECTED]
