"""What a stream receives: delivered at once, or kept while its protocol has paused it."""

from __future__ import annotations

from collections import deque

from phantom.core.stream import RECEIVING
from phantom.errors import RemoteProtocolError
from phantom.tunnel.stream_sending import SendingStream

#: Received pieces that must wait are joined until they have this size.
JOINED = 32 * 1024


class ReceivingStream(SendingStream):
    """The direction from the peer: an IPushProducer for the local protocol."""

    __slots__ = ()

    # -- IPushProducer -------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """Deliver nothing for now; the window then holds the peer back."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Deliver again."""
        self._paused = False
        if self._protocol is not None and (
            self._inbox or self._read_ended or self._end_reason is not None
        ):
            self._deliver()

    def stopProducing(self) -> None:
        """Close."""
        self.loseConnection()

    # -- called by the multiplexer ---------------------------------------------------------

    def data_received(self, data: memoryview) -> None:
        """Take one DATA payload.

        Raises:
            RemoteProtocolError: The window is overrun, or the peer had ended its direction.
        """
        if self.state not in RECEIVING:
            raise RemoteProtocolError("data on a stream that may not receive")
        self.window.received(len(data))
        if self._closing:
            self._took(len(data))
            return
        waits = self._paused or self._inbox
        if self._takes_pieces and not waits:
            if self.gathered is None:
                self.gathered = []
                self._mux.gather(self)
            self.gathered.append(data)
            return
        if self.gathered:
            # The protocol was paused or replaced since; what came before comes before.
            self.deliver_gathered()
            waits = self._paused or self._inbox
        if waits or self._protocol is None:
            self._keep(data)
        else:
            self._delivering = True
            self._hand_over(data)
            self._delivering = False

    def deliver_gathered(self) -> None:
        """Hand over what was gathered, which is valid for this call only."""
        pieces, self.gathered = self.gathered, None
        if not pieces:
            return
        if self._closing:
            self._took(sum(map(len, pieces)))
        elif self._paused or self._inbox or not self._takes_pieces:
            for piece in pieces:
                self._keep(piece)
            self._deliver()
        else:
            self._delivering = True
            try:
                self._protocol.pieces_received(pieces)
            except Exception:
                self._protocol_failed()
            self._delivering = False
            self._took(sum(map(len, pieces)))

    # -- inner ---------------------------------------------------------------------------

    def _keep(self, data: memoryview) -> None:
        """Put received data into the inbox."""
        inbox = self._inbox
        if inbox is None:
            inbox = self._inbox = deque()
        if inbox and len(inbox[-1]) < JOINED:
            # Joined, or a peer's frames of a byte each would cost fifty times their size.
            inbox[-1] += data
        else:
            inbox.append(bytearray(data))

    def _deliver(self) -> None:
        """Hand over what waits, until the protocol pauses us; then tell of the end."""
        if self._delivering:
            return
        inbox = self._inbox
        self._delivering = True
        while inbox and inbox is self._inbox and not self._paused and not self._closing:
            self._hand_over(memoryview(inbox.popleft()))
        self._delivering = False
        if not self._inbox:
            self._inbox = None
        if self._protocol is None or self._paused or (inbox and not self._closing):
            return
        if self._read_ended and not self._closing and self._end_reason is None:
            self._read_ended = False
            if self._half_closes:
                self._tell(self._protocol.readConnectionLost)
            else:
                self.loseConnection()
        if self._end_reason is not None:
            self._tell_end()

    def _hand_over(self, data: memoryview) -> None:
        self._tell(self._protocol.dataReceived, data if self._views else bytes(data))
        self._took(len(data))

    def _took(self, size: int) -> None:
        # The room is free, and granted again, only now that the consumer took the bytes.
        if self.window.taken(size):
            self._mux.measure(self.window)
        if self.state in RECEIVING and not self._closing:
            grant = self.window.grant()
            if grant:
                self._mux.send_credit(self, grant)

    def _discard_inbox(self) -> None:
        if self.gathered:
            size = sum(map(len, self.gathered))
            self.gathered = None
            self._took(size)
        if self._inbox:
            size = sum(len(data) for data in self._inbox)
            self._inbox = None
            self._took(size)
