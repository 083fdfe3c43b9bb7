"""A relay that records what passes: the capture where packets cannot be had.

What one read returns stands for a segment, so that segments sent in quick succession may look
like one; `phantom.audit.sniffer` sees them as they are.
"""

from __future__ import annotations

import select
import socket
import threading
import time

from phantom.audit.flows import Flow, Segment

#: Connections that wait to be accepted.
_BACKLOG = 128
#: Seconds between two looks at whether to stop.
_TURN = 0.2


class RecordingRelay:
    """Listens on 127.0.0.1, passes everything on, and keeps a copy.

    Args:
        target: The server's port on 127.0.0.1.

    Attributes:
        port: Where to connect.

    Raises:
        OSError: No port can be had.
    """

    def __init__(self, target: int) -> None:
        self._target = ("127.0.0.1", target)
        self._flows: list[Flow] = []
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self._listener.settimeout(_TURN)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def take(self) -> list[Flow]:
        """Return the connections recorded since the last call."""
        taken, self._flows = self._flows, []
        return taken

    def stop(self) -> None:
        """Accept no more, and drop what there is."""
        self._stopped.set()

    def _accept(self) -> None:
        with self._listener:
            while not self._stopped.is_set():
                try:
                    client, address = self._listener.accept()
                except TimeoutError:
                    continue
                except OSError:
                    return
                flow = Flow(client=str(address), server=str(self._target), began=time.monotonic())
                self._flows.append(flow)
                threading.Thread(target=self._run, args=(client, flow), daemon=True).start()

    def _run(self, client: socket.socket, flow: Flow) -> None:
        with client:
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                return
            with server:
                try:
                    self._pump(client, server, flow)
                except OSError:
                    pass  # either end is gone, and so is the other in a moment
        flow.ended = time.monotonic()

    def _pump(self, client: socket.socket, server: socket.socket, flow: Flow) -> None:
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.settimeout(None)
        reading = [client, server]
        while reading and not self._stopped.is_set():
            ready, _, _ = select.select(reading, [], [], _TURN)
            for source in ready:
                sink = server if source is client else client
                data = source.recv(65536)
                if not data:
                    reading.remove(source)
                    sink.shutdown(socket.SHUT_WR)
                    continue
                flow.segments.append(Segment(time.monotonic(), source is client, data))
                sink.sendall(data)
