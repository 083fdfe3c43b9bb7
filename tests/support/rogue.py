"""A client that holds the keys and says what it likes."""

from __future__ import annotations

from typing import Any

from twisted.python.failure import Failure

from phantom.core.wire import Attach, FrameType, pack_frame
from phantom.tunnel.frame import FrameProtocol
from support.tunnel import Joined

#: The session of `Joined`.
ID = b"I" * 16


class Rogue:
    """The client's side of a link without a session: says what it is told to."""

    expects = False

    def __init__(self) -> None:
        self.heard: list[tuple[int, bytes]] = []
        self.lost = False

    def link_made(self, link: FrameProtocol) -> None:
        self.link = link

    def frame_received(self, link: Any, kind: int, stream_id: int, payload: memoryview) -> None:
        self.heard.append((kind, bytes(payload)))

    def data_received(self, link: Any, frames: list[tuple[int, memoryview]]) -> None:
        self.heard += ((FrameType.DATA, bytes(payload)) for _, payload in frames)

    def records_done(self, link: FrameProtocol) -> None:
        pass

    def link_ready(self, link: FrameProtocol) -> None:
        pass

    def protocol_failed(self, link: FrameProtocol, error: Exception) -> None:
        raise error

    def link_lost(self, link: FrameProtocol, reason: Failure) -> None:
        self.lost = True

    @property
    def answer(self) -> Attach:
        kind, payload = self.heard[0]
        assert kind == FrameType.ATTACH
        return Attach.decode(memoryview(payload))


def rogue(joined: Joined, attach: Attach) -> Rogue:
    """Dial with the client's key and say `attach`."""
    rogue = Rogue()
    made: list[FrameProtocol] = []
    joined._link(made.append)
    made[0].receiver = rogue
    rogue.link = made[0]
    made[0].send_record(pack_frame(FrameType.ATTACH, 0, attach.encode()))
    joined.run(0.01)
    return rogue
