"""A TCP relay that treats connections as known censors do."""

from __future__ import annotations

import socket
import struct
import threading
import time

import attrs

from support.destinations import reset, shut

#: What one packet of an Ethernet path carries; the censor counts reads of this size.
SEGMENT = 1448


@attrs.frozen(kw_only=True)
class Rules:
    """What happens to every connection; nothing where not given.

    Attributes:
        freeze_down: After so many bytes to the client nothing passes, and nothing is said.
        freeze_packets: The same after so many packets either way.
        rst_after: After so many bytes either way both sides get a reset.
        cut_after: After so many seconds both sides get a reset.
        throttle: Bytes a second, each way.
    """

    freeze_down: int | None = None
    freeze_packets: int | None = None
    rst_after: int | None = None
    cut_after: float | None = None
    throttle: int | None = None


class _Connection:
    def __init__(self, client: socket.socket, server: socket.socket, rules: Rules) -> None:
        self.sockets = (client, server)
        self.rules = rules
        self.began = time.monotonic()
        self.bytes = [0, 0]
        self.packets = 0
        self.frozen = False
        self.over = False

    def start(self) -> None:
        for direction in (0, 1):
            threading.Thread(target=self._pump, args=(direction,), daemon=True).start()
        if self.rules.cut_after is not None:
            timer = threading.Timer(self.rules.cut_after, self.reset)
            timer.daemon = True
            timer.start()

    def _pump(self, direction: int) -> None:
        source, sink = self.sockets[direction], self.sockets[1 - direction]
        while True:
            try:
                data = source.recv(SEGMENT)
            except OSError:
                data = b""
            if not data:
                break
            self.bytes[direction] += len(data)
            self.packets += 1
            rules = self.rules
            if rules.rst_after is not None and sum(self.bytes) > rules.rst_after:
                self.reset()
                return
            if rules.freeze_down is not None and self.bytes[1] > rules.freeze_down:
                self.frozen = True
            if rules.freeze_packets is not None and self.packets > rules.freeze_packets:
                self.frozen = True
            if self.frozen:
                continue  # swallowed: both ends just wait
            if rules.throttle is not None:
                due = self.began + self.bytes[direction] / rules.throttle
                time.sleep(max(0.0, due - time.monotonic()))
            try:
                sink.sendall(data)
            except OSError:
                break
        if not self.frozen:
            try:
                sink.shutdown(socket.SHUT_WR)
            except OSError:
                pass

    def reset(self) -> None:
        self.over = True
        for end in self.sockets:
            try:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # Wakes the thread that reads from it; close() alone would not.
                end.shutdown(socket.SHUT_RD)
                end.close()
            except OSError:
                pass


class Censor:
    """Relays connections to a target, under rules that may change.

    Args:
        target: Where to.
        rules: For connections from now on.

    Attributes:
        port: Where it listens on 127.0.0.1.
        connections: Every connection so far.
        blocked: Whether new connections get a reset.
    """

    def __init__(self, target: tuple[str, int], rules: Rules | None = None) -> None:
        self.target = target
        self.rules = rules or Rules()
        self.connections: list[_Connection] = []
        self.blocked = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.blocked:
                reset(client)
                continue
            try:
                server = socket.create_connection(self.target)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(client, server, self.rules)
            self.connections.append(connection)
            connection.start()

    def cut(self) -> None:
        """Reset every connection that lives."""
        for connection in self.connections:
            if not connection.over:
                connection.reset()

    def freeze(self) -> None:
        """Swallow all that arrives on the connections there are, and say nothing."""
        for connection in self.connections:
            connection.frozen = True

    def close(self) -> None:
        """Relay nothing any more."""
        shut(self._listener)  # wakes the thread that accepts
        self._listener.close()
        self.cut()
