"""Visitors who may be strangers, and the web server that is ready for them."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from phantom.carriers.decoy import BackendDecoy, Guests, H2Decoy, built_in_site
from phantom.carriers.expected import ExpectedVisitor
from phantom.carriers.strangers import Strangers
from phantom.core.opening_h2 import SETTINGS_ACK, frame
from phantom.relay import relay_pair
from phantom.runtime import Runtime

GREETING = frame(4, 0, 0, bytes(6)) + frame(8, 0, 0, b"\0\0\0\1")
OTHER = frame(4, 0, 0, bytes(12))


class Transport(StringTransport):
    """A visitor's, or the web server's: notes how it was ended."""

    protocol: Any = None
    ended = ""

    def loseConnection(self) -> None:
        self.ended = self.ended or "closed"

    def loseWriteConnection(self) -> None:
        self.ended = self.ended or "half-closed"

    def abortConnection(self) -> None:
        self.ended = self.ended or "aborted"

    def lose_without_notice(self) -> None:
        self.ended = self.ended or "cut"


class Scene:
    """A visitor, a web server, and what is between them until it is known who comes."""

    def __init__(
        self, runtime: Runtime, clock: Clock, greeting: bytes, h2: bool, early: bool = False
    ) -> None:
        self.clock = clock
        self.h2 = h2
        self.greeting = greeting
        self.learnt = 0
        self.lost: list[bytes] = []
        self.visitor = Transport()
        self.web = Transport()
        self.attempts: list[Any] = []
        self.strangers = Strangers()
        self.stranger = 0
        self.expected = ExpectedVisitor(
            runtime,
            self,
            self,
            relay_pair,
            self.strangers,
            self.visitor,
            None if early else self.turn_away,
        )

    # -- the endpoint, and the backend --------------------------------------------------

    def connect(self, factory: Any) -> Deferred[Any]:
        self.attempts.append((factory, Deferred()))
        attempt: Deferred[Any] = self.attempts[-1][1]
        return attempt

    def learn(self) -> None:
        self.learnt += 1

    def unreachable(self, transport: Any, received: bytes) -> None:
        self.lost.append(received)

    # -- what happens -------------------------------------------------------------------

    def turn_away(self) -> None:
        self.stranger += 1
        if self.stranger == 1:
            self.expected.take(b"")

    def turn(self) -> None:
        self.clock.advance(0)

    def connected(self) -> Any:
        [(factory, attempt)] = self.attempts
        protocol = factory.buildProtocol(None)
        self.web.protocol = protocol
        protocol.makeConnection(self.web)
        attempt.callback(protocol)
        return protocol

    def refused(self) -> None:
        [(_factory, attempt)] = self.attempts
        attempt.errback(ConnectionRefusedError())

    def web_says(self, data: bytes) -> bytes:
        """Return what the visitor hears when the web server says `data`."""
        self.visitor.clear()
        self.web.protocol.dataReceived(data)
        return bytes(self.visitor.value())

    def visitor_says(self, data: bytes) -> bytes:
        self.web.clear()
        self.visitor.protocol.dataReceived(data)
        return bytes(self.web.value())


@pytest.fixture
def h1(runtime: Runtime, clock: Clock) -> Scene:
    return Scene(runtime, clock, b"", False)


@pytest.fixture
def h2(runtime: Runtime, clock: Clock) -> Scene:
    return Scene(runtime, clock, GREETING, True)


def test_a_client_who_comes_at_once_costs_the_web_server_nothing(h1: Scene) -> None:
    h1.expected.release()
    h1.turn()
    assert not h1.attempts and not len(h1.strangers)


def test_a_silent_visitor_has_a_web_server_from_the_first_turn_on(h1: Scene) -> None:
    h1.turn()
    h1.connected()
    assert len(h1.strangers) == 1 and not h1.web.value()
    h1.web.protocol.connectionLost(Failure(ConnectionDone()))
    assert h1.stranger == 1 and h1.visitor.ended == "closed"
    assert not len(h1.strangers)


def test_half_a_request_that_ran_out_of_time_is_cut(h1: Scene) -> None:
    h1.turn()
    h1.connected()
    h1.expected.take(b"POST /")
    assert h1.web.value() == b"POST /"
    h1.web.protocol.readConnectionLost()
    assert h1.visitor.ended == "cut"


def test_an_answered_request_is_not_cut(h1: Scene) -> None:
    h1.turn()
    h1.connected()
    h1.expected.take(b"GET / HTTP/1.0\r\n\r\n")
    assert h1.web_says(b"HTTP/1.1 200 OK\r\n\r\n") == b"HTTP/1.1 200 OK\r\n\r\n"
    h1.web.protocol.readConnectionLost()
    assert h1.visitor.ended in ("closed", "half-closed")


def test_a_web_server_that_speaks_to_the_silent_is_heard(h1: Scene) -> None:
    h1.turn()
    h1.connected()
    assert h1.web_says(b"HTTP/1.1 408 Request Timeout\r\n\r\n").startswith(b"HTTP/1.1 408")
    assert h1.stranger == 1


def test_a_client_who_takes_its_time(h1: Scene) -> None:
    h1.turn()
    h1.connected()
    h1.expected.release()
    assert h1.web.ended == "aborted" and not len(h1.strangers)
    h1.web.protocol.connectionLost(Failure(ConnectionDone()))
    assert h1.stranger == 0 and not h1.visitor.ended


def test_a_client_who_comes_while_the_web_server_is_being_connected(h1: Scene) -> None:
    h1.turn()
    h1.expected.release()
    assert h1.attempts[0][1].called and not len(h1.strangers)


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_unreachable_web_server(h1: Scene, when: str) -> None:
    h1.turn()
    if when == "before":
        h1.refused()
    h1.expected.take(b"GET")
    if when == "after":
        h1.refused()
    assert h1.lost == [b"GET"] and not len(h1.strangers)


def test_over_http2_the_first_words_are_said_and_swallowed_once(h2: Scene) -> None:
    h2.turn()
    assert h2.visitor.value() == GREETING
    h2.connected()
    h2.expected.pass_on(b"PRI")
    assert h2.web.value() == b"PRI"
    assert h2.web_says(GREETING[:10]) == b""
    assert h2.web_says(GREETING[10:] + SETTINGS_ACK) == SETTINGS_ACK
    h2.expected.take(b" * HTTP/2.0")
    assert h2.web.value() == b"PRI * HTTP/2.0"
    assert h2.web_says(b"more") == b"more" and h2.visitor_says(b"still more") == b"still more"


def test_who_has_spoken_already_hears_the_web_server_itself(h2: Scene) -> None:
    h2.expected.pass_on(b"PRI")
    h2.turn()
    assert not h2.visitor.value()
    h2.connected()
    assert h2.web.value() == b"PRI"
    assert h2.web_says(GREETING + SETTINGS_ACK) == GREETING + SETTINGS_ACK


def test_swallowing_goes_on_behind_the_decision(h2: Scene) -> None:
    h2.turn()
    h2.expected.take(b"GET")
    h2.connected()
    assert h2.web.value() == b"GET"
    assert h2.web_says(GREETING + b"answer") == b"answer"


def test_other_first_words_than_before_are_heard_whole(h2: Scene) -> None:
    h2.turn()
    h2.connected()
    h2.expected.take(b"GET")
    shared = next(i for i in range(99) if OTHER[i] != GREETING[i])
    assert h2.web_says(OTHER[:shared]) == b""
    assert h2.web_says(OTHER[shared:]) == OTHER
    assert h2.learnt == 1


def test_half_a_frame_is_kept_back_until_it_is_a_strangers(h2: Scene) -> None:
    h2.turn()
    h2.connected()
    assert h2.web_says(GREETING + b"\0\0\4\7") == b""
    h2.visitor.clear()
    h2.expected.take(b"")
    assert h2.visitor.value() == b"\0\0\4\7"


def test_what_a_client_is_told_of_the_first_words(h2: Scene) -> None:
    said = h2.expected.release()
    assert (said.settings, said.acknowledged, said.unsaid) == (1, False, GREETING)


def test_what_a_late_client_is_told_of_the_first_words(h2: Scene) -> None:
    h2.turn()
    h2.connected()
    h2.web_says(GREETING + SETTINGS_ACK)
    said = h2.expected.release()
    assert (said.settings, said.acknowledged, said.unsaid) == (1, True, b"")


def test_a_flood_of_frames_makes_a_stranger(h2: Scene) -> None:
    h2.turn()
    h2.connected()
    h2.web_says(GREETING + b"\xff" * 9000)
    assert h2.stranger == 1


def test_the_silent_are_dismissed_as_by_an_nginx_with_tls(h2: Scene) -> None:
    h2.turn()
    h2.connected()
    assert h2.web_says(GREETING + frame(7, 0, 0, bytes(7) + b"\1")) == frame(7, 0, 0, bytes(8))
    h2.web.protocol.connectionLost(Failure(ConnectionDone()))
    assert h2.visitor.ended == "closed"


def test_the_confused_are_not(h2: Scene) -> None:
    h2.turn()
    h2.connected()
    h2.expected.pass_on(b"PRI")
    goaway = frame(7, 0, 0, bytes(7) + b"\1")
    assert h2.web_says(GREETING + goaway) == goaway


# -- while the TLS handshake is under way ------------------------------------------------


@pytest.fixture
def early(runtime: Runtime, clock: Clock) -> Scene:
    return Scene(runtime, clock, b"", False, early=True)


@pytest.fixture
def early_h2(runtime: Runtime, clock: Clock) -> Scene:
    return Scene(runtime, clock, GREETING, True, early=True)


def test_the_web_servers_clock_runs_from_the_hello_on(early: Scene) -> None:
    early.connected()
    assert len(early.strangers) == 1
    early.web.protocol.connectionLost(Failure(ConnectionDone()))
    assert early.stranger == 0 and not early.visitor.ended, "TLS is not up yet"
    early.expected.up(early.turn_away)
    early.turn()
    assert early.stranger == 1 and early.visitor.ended == "closed"
    assert not len(early.strangers)


def test_a_handshake_that_fails_lets_the_web_server_go(early: Scene) -> None:
    early.connected()
    early.expected.release()
    assert early.web.ended == "aborted" and not len(early.strangers) and not early.visitor.ended


def test_a_client_is_told_nothing_and_lets_the_web_server_go(early_h2: Scene) -> None:
    early_h2.connected()
    early_h2.expected.up(early_h2.turn_away)
    said = early_h2.expected.release()
    early_h2.turn()
    assert (said.settings, said.unsaid) == (1, GREETING)
    assert early_h2.web.ended == "aborted" and not early_h2.visitor.value()


@pytest.mark.parametrize("connected", ["before", "after"])
def test_a_stranger_over_http2(early_h2: Scene, connected: str) -> None:
    if connected == "before":
        early_h2.connected()
    assert not early_h2.visitor.value()
    early_h2.expected.up(early_h2.turn_away)
    early_h2.turn()
    assert early_h2.visitor.value() == GREETING
    if connected == "after":
        early_h2.connected()
    early_h2.expected.take(b"GET")
    assert early_h2.web.value() == b"GET"
    assert early_h2.web_says(GREETING + b"answer") == b"answer"


def test_a_web_server_that_speaks_before_tls_is_up_is_heard_then(early_h2: Scene) -> None:
    early_h2.connected()
    assert early_h2.web_says(GREETING + SETTINGS_ACK) == b""
    early_h2.expected.up(early_h2.turn_away)
    early_h2.turn()
    assert early_h2.visitor.value() == GREETING + SETTINGS_ACK


def test_what_it_says_before_is_there_when_a_stranger_comes_at_once(early: Scene) -> None:
    early.connected()
    early.web_says(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    early.expected.up(early.turn_away)
    early.expected.take(b"GET")
    early.turn()
    assert early.visitor.value().startswith(b"HTTP/1.1 408")


def test_a_web_server_that_talks_without_end_before_tls_is_up(early: Scene) -> None:
    early.connected()
    early.web_says(bytes(20_000))
    assert early.web.ended == "aborted"


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_an_unreachable_web_server_early(early: Scene, when: str) -> None:
    if when == "before":
        early.refused()
    early.expected.up(early.turn_away)
    if when == "between":
        early.refused()
    early.turn()
    early.expected.take(b"GET")
    if when == "after":
        early.refused()
    assert early.lost == [b"GET"] and not len(early.strangers)


class Host:
    """TLS with what is ready for its visitor, as `Guests` sees it."""

    def __init__(self, alpn: str | None) -> None:
        self.alpn = alpn
        self.expected: Any = None


async def test_another_protocol_than_it_seemed_is_prepared_for_anew(
    live_runtime: Runtime, reactor: Any
) -> None:
    guests = Guests(
        BackendDecoy(live_runtime, "127.0.0.1", 1, relay_pair),
        H2Decoy(live_runtime, "127.0.0.1", 1, relay_pair),
    )
    for seemed, agreed, kept in (("h2", "h2", True), (None, "h2", False), (None, None, True)):
        host = Host(agreed)
        host.expected = first = guests.expect_early(host, seemed)
        got = guests.expect(host, lambda: None)
        assert (got is first) == kept and got.h2 == (agreed == "h2") and host.expected is None
        got.release()
    await deferLater(reactor, 0.1)


def test_a_folder_needs_no_preparation(runtime: Runtime) -> None:
    assert Guests(built_in_site(runtime, bytes(32))).expect_early(Host(None), None) is None
