"""Both ends of a Noise link, joined in memory: what sits on them, and who gets the strangers."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from phantom.core.handshake import Cipher, HandshakePayload, Mode, PostQuantum
from phantom.core.opening_h2 import ServerTalk
from phantom.layer import switch_protocol
from phantom.tunnel.initiator import InitiatorSettings, NoiseInitiator
from phantom.tunnel.post_quantum import ClientSecrets, ServerSecrets
from phantom.tunnel.responder import NoiseResponder
from support.keys import CLIENT, CLIENT_PUBLIC, SERVER, SERVER_PUBLIC
from support.pipes import Split, join, run, whole
from support.runtime import fake_runtime


class Upper:
    """What sits on an established link."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.records: list[bytes] = []
        self.lost: list[Failure] = []

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        transport.registerProducer(self, True)

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        pass

    def records_received(self, records: list[memoryview]) -> None:
        self.records += map(bytes, records)

    def dataReceived(self, data: bytes) -> None:
        self.records.append(data)

    def connectionLost(self, reason: Failure) -> None:
        self.lost.append(reason)


class Abyss:
    """A stranger policy that writes down whom it got, and what that one sends then."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.half_closed = False
        self.transport: Any = None

    def __call__(self, transport: Any, received: bytes) -> None:
        self.received.append(bytes(received))
        switch_protocol(transport, self)

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport

    def dataReceived(self, data: bytes) -> None:
        self.received.append(data)

    def readConnectionLost(self) -> None:
        self.half_closed = True

    def connectionLost(self, reason: Failure) -> None:
        pass

    @property
    def everything(self) -> bytes:
        return b"".join(self.received)


class Gate:
    def __init__(self, allowed: set[bytes]) -> None:
        self.allowed = allowed
        self.asked: list[tuple[bytes, HandshakePayload, bytes]] = []

    def authorise(self, client_key: bytes, payload: HandshakePayload, e: bytes) -> bool:
        self.asked.append((client_key, payload, e))
        return client_key in self.allowed


class WebServer:
    """What is ready for a visitor over HTTP/2 who may be a stranger."""

    def __init__(self, pair: Any, transport: Any, stranger: Any, greeting: bytes) -> None:
        self.pair, self.transport, self.stranger = pair, transport, stranger
        self.talk = ServerTalk()
        self.seen = b""
        self.released = 0
        transport.write(self.talk.whole_frames(greeting))

    def pass_on(self, data: bytes) -> None:
        self.seen += data

    def take(self, received: bytes) -> None:
        self.released += 1
        self.pair.stranger(self.transport, self.seen + received)

    def release(self) -> ServerTalk:
        self.released += 1
        return self.talk


class Pair:
    def __init__(
        self,
        mode: Mode,
        *,
        cipher: Cipher = Cipher.AESGCM,
        prefix: bool = True,
        split: Split = whole,
        allowed: set[bytes] | None = None,
        server_key: bytes = SERVER_PUBLIC,
        seed: int = 5,
        client: PostQuantum = PostQuantum.AUTO,
        server: PostQuantum = PostQuantum.AUTO,
        secrets: ClientSecrets | None = None,
        server_secrets: ServerSecrets | None = None,
        web_server: bytes | None = None,
    ) -> None:
        self.expected: list[WebServer] = []
        self.web_server = web_server
        self.clock = Clock()
        self.post_quantum = server
        self.server_secrets = server_secrets or ServerSecrets()
        runtime = fake_runtime(self.clock, seed=seed)
        self.runtime = runtime
        self.client_upper, self.server_upper = Upper(), Upper()
        self.stranger, self.drain, self.leaver = Abyss(), Abyss(), Abyss()
        self.gate = Gate({CLIENT_PUBLIC} if allowed is None else allowed)
        self.failures: list[Failure] = []
        self.undecided: list[NoiseResponder] = []
        self.decided: list[NoiseResponder] = []
        self.client = NoiseInitiator(
            runtime,
            self.client_upper,
            InitiatorSettings(
                private_key=CLIENT,
                server_key=server_key,
                cipher=cipher,
                mode=mode,
                host="example.com",
                prefix=prefix,
                post_quantum=client,
                secrets=secrets,
            ),
            self.leaver,
            self.failures.append,
        )
        self.server = self.responder(mode)
        alpn = "h2" if mode is Mode.TLS_H2 else None
        self.pipe = join(self.clock, self.client, self.server, split=split, alpn=alpn)
        run(self.clock, 1)

    def arrived(self, visitor: NoiseResponder) -> None:
        self.undecided.append(visitor)

    def settled(self, visitor: NoiseResponder) -> None:
        self.decided.append(visitor)

    def expect(self, transport: Any, stranger: Any) -> WebServer:
        assert self.web_server is not None
        self.expected.append(WebServer(self, transport, stranger, self.web_server))
        return self.expected[-1]

    def responder(self, mode: Mode) -> NoiseResponder:
        return NoiseResponder(
            self.runtime,
            self.server_upper,
            private_key=SERVER,
            public_key=SERVER_PUBLIC,
            mode=mode,
            gatekeeper=self.gate,
            stranger=self.stranger,
            expect=None if self.web_server is None else self.expect,
            abandon=self.drain,
            timeout=10,
            visitors=self,
            instance=bytes(16),
            post_quantum=self.post_quantum,
            secrets=self.server_secrets,
        )


MODES = pytest.mark.parametrize("mode", list(Mode))
