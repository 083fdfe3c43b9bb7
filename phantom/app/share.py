"""What one of several worker processes is given, and its part of the server's limits."""

from __future__ import annotations

import socket

import attrs

from phantom.carriers.tls_engine import ServerEngines
from phantom.config.schema_server import ServerConfig
from phantom.tunnel.post_quantum import ExchangeMemory
from phantom.tunnel.siblings import Siblings


@attrs.frozen(slots=True, kw_only=True)
class Share:
    """One worker's share of a server.

    Attributes:
        workers: How many there are.
        listeners: The listening sockets, which all of them accept from.
        certificates: The certificate as the parent read it, with the keys of session tickets;
            None without TLS.
        replay: The descriptor of the replay filter's file; negative when there is none.
        secrets: What post-quantum exchanges left.
        instance: Names the running server to clients; the same in all workers.
        siblings: The other workers.
    """

    workers: int
    listeners: tuple[socket.socket, ...]
    certificates: ServerEngines | None
    replay: int
    secrets: ExchangeMemory
    instance: bytes
    siblings: Siblings

    def limits(self, config: ServerConfig) -> ServerConfig:
        """Return the settings with this worker's part of what is limited for all clients.

        Limits of one client stay whole: its sessions are mostly in one worker.
        """
        return attrs.evolve(
            config,
            max_unauthenticated=self.part(config.max_unauthenticated),
            max_connections=self.part(config.max_connections),
            detached_memory=self.part(config.detached_memory),
        )

    def part(self, limit: int) -> int:
        """Return a worker's part of a limit, at least 1."""
        return max(1, -(-limit // self.workers))
