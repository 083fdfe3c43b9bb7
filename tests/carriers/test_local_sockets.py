"""Connections within the machine go without BBR's timers, and only they."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from phantom.app.listening import bind
from phantom.carriers.congestion import LinkSockets
from phantom.config.values import ListenAddress
from phantom.fast import local
from phantom.fast.local import congestion_of, is_loopback, set_congestion, spare_pacing
from phantom.runtime import Runtime

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_CONGESTION"), reason="Linux only")


@pytest.fixture
def bbr(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if the machine's default were BBR, wherever sockets begin with something else."""
    monkeypatch.setattr(local, "_default", lambda: "bbr")
    monkeypatch.setattr(local, "_unpaced", ["no-such", "reno"])
    with socket.socket() as trial:
        if not set_congestion(trial, "bbr"):
            pytest.skip("a kernel without BBR, or one that does not allow it")
    yield


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("127.0.0.1", True),
        ("127.4.5.6", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("128.0.0.1", False),
        ("10.0.0.1", False),
        ("::2", False),
        ("::", False),
        ("::ffff:10.0.0.1", False),
        (None, False),
        (b"127.0.0.1", False),
    ],
)
def test_what_loopback_is(host: object, answer: bool) -> None:
    assert is_loopback(host) is answer


def paced() -> socket.socket:
    made = socket.socket()
    assert set_congestion(made, "bbr")
    return made


@pytest.mark.parametrize(("host", "left"), [("127.0.0.1", "reno"), ("192.0.2.1", "bbr")])
def test_bbr_is_taken_from_loopback_only(bbr: None, host: str, left: str) -> None:
    with paced() as handle:
        spare_pacing(handle, host)
        assert congestion_of(handle) == left


def test_what_the_kernel_refused_is_not_asked_for_again(bbr: None) -> None:
    with paced() as first:
        spare_pacing(first, "127.0.0.1")
    assert local._unpaced == ["reno"]


def test_a_dead_socket_says_nothing_about_the_kernel(bbr: None) -> None:
    handle = paced()
    handle.close()
    spare_pacing(handle, "::1")
    assert local._set(handle, "reno") == errno.EBADF
    assert local._unpaced == ["no-such", "reno"]


def test_where_the_default_is_another_one_nothing_is_set(
    bbr: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "_default", lambda: "cubic")
    with paced() as handle:
        spare_pacing(handle, "127.0.0.1")
        assert congestion_of(handle) == "bbr"


def test_what_a_loopback_port_accepts_is_spared(bbr: None) -> None:
    listener = bind(ListenAddress.parse("127.0.0.1:0"), "socks5_listen")
    with listener, socket.create_connection(listener.getsockname()):
        listener.setblocking(True)
        accepted, _ = listener.accept()
        with accepted:
            assert congestion_of(accepted) == "reno"


async def test_links_within_the_machine_are_spared_unless_bbr_is_named(
    bbr: None, runtime: Runtime, reactor: Any
) -> None:
    port = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    client = await endpoint.connect(Factory.forProtocol(Protocol))
    handle = client.transport.getHandle()
    set_congestion(handle, "bbr")
    LinkSockets(runtime, "system").tune(client.transport)
    LinkSockets(runtime, "bbr").tune(client.transport)
    assert congestion_of(handle) == "bbr"
    LinkSockets(runtime, "auto").tune(client.transport)
    assert congestion_of(handle) == "reno"
    client.transport.abortConnection()
    await port.stopListening()
    await deferLater(reactor, 0.01)
