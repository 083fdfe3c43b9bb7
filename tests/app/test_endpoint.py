"""The endpoint for programs that embed the tunnel."""

from __future__ import annotations

from typing import Any

import pytest
from support.stack import Stack
from support.tunnel import Recorder
from twisted.internet.endpoints import clientFromString
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from phantom.address import Destination
from phantom.app.endpoint import OutboundEndpoint
from phantom.errors import ConfigurationError, Outcome, RelayError


class Recorders(Factory):
    noisy = False

    def buildProtocol(self, addr: Any) -> Any:
        return Recorder()


def test_it_connects_a_factorys_protocol() -> None:
    stack = Stack()
    stack.dialer.start()
    stack.run()
    got: list[Any] = []
    endpoint = OutboundEndpoint(stack.outbound, Destination("good.example", 443))
    endpoint.connect(Recorders()).addCallback(got.append)
    stack.run()
    got[0].transport.write(b"through the tunnel")
    stack.run()
    assert got[0].data == b"through the tunnel"


def test_a_failure_says_why() -> None:
    stack = Stack()
    stack.dialer.start()
    stack.run()
    stack.destinations.outcomes["bad.example"] = Outcome.REFUSED
    failures: list[Failure] = []
    endpoint = OutboundEndpoint(stack.outbound, Destination("bad.example", 443))
    endpoint.connect(Recorders()).addErrback(failures.append)
    stack.run()
    assert failures[0].check(RelayError) and failures[0].value.outcome is Outcome.REFUSED


def test_the_string_form_is_known_to_twisted(reactor: Any, tmp_path: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml"):
        clientFromString(reactor, f"phantom:example.com:443:config={tmp_path}/none.toml")
    with pytest.raises(ValueError, match="host name"):
        clientFromString(reactor, "phantom:not a host:443")


def test_a_stream_lets_its_protocol_be_replaced() -> None:
    stack = Stack()
    stack.dialer.start()
    stack.run()
    first, second = Recorder(), Recorder()
    stack.outbound.connect(Destination("good.example", 443), first)
    stack.run()
    first.transport.write(b"one")
    stack.run()
    stream = first.transport
    stream.protocol = second
    second.makeConnection(stream)
    stream.write(b"two")
    stack.run()
    assert (first.data, second.data) == (b"one", b"two")
