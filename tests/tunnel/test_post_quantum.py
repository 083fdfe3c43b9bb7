"""Keys that rest on ML-KEM too: who gets them, what later links take over, and what fails."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stack import Stack
from support.tunnel import SOMEWHERE, Recorder

from phantom.core.handshake import Cipher, HandshakePayload, Mode, PostQuantum
from phantom.crypto.kem import KeyPair
from phantom.crypto.noise_ik import TransportKeys
from phantom.crypto.ratchet import first_step
from phantom.errors import HandshakeError, RemoteProtocolError
from phantom.tunnel.post_quantum import (
    EXCHANGES_PER_CLIENT,
    FRESH_EXCHANGE_AFTER,
    KEEP_EXCHANGE,
    ClientExchange,
    ClientSecrets,
    SecretForgottenError,
    ServerExchange,
    ServerSecrets,
)

AUTO, REQUIRE, OFF = PostQuantum
KEYS = TransportKeys(b"s" * 32, b"r" * 32, b"h" * 32, Cipher.AESGCM)


def entropy(size: int) -> bytes:
    return bytes(size)


class Ends:
    """What a client and a server remember; each link is a call."""

    def __init__(self, client: PostQuantum = AUTO, server: PostQuantum = AUTO) -> None:
        self.client, self.server = ClientSecrets(), ServerSecrets()
        self.policies = client, server
        self.now = 0.0

    def link(self, reached: str = "all") -> str:
        """Make a link that is lost after it `reached` something; return how keys came about."""
        asked = ClientExchange(self.policies[0], b"K", self.client, entropy, self.now)
        if reached == "nothing":
            return ""
        served = ServerExchange(
            self.policies[1], self.server, b"C", HandshakePayload(**asked.fields), self.now
        )
        answer = served.answer()
        if reached == "message 1":
            return ""
        theirs = served.finish(KEYS)
        ours = asked.finish(HandshakePayload(**answer), KEYS)
        assert ours.keys == theirs.keys
        assert ours.post_quantum is theirs.post_quantum is (ours.keys != KEYS)
        if reached == "message 2":
            return ""
        theirs.confirmed()
        if reached == "first record":
            return ""
        ours.confirmed()
        return next(iter(answer), "")


@pytest.mark.parametrize("client", list(PostQuantum))
@pytest.mark.parametrize("server", list(PostQuantum))
def test_who_gets_a_link(client: PostQuantum, server: PostQuantum) -> None:
    ends = Ends(client, server)
    if {client, server} == {OFF, REQUIRE}:
        with pytest.raises((HandshakeError, RemoteProtocolError)):
            ends.link()
    else:
        done = OFF not in (client, server)
        assert ends.link() == ("kem_ciphertext" if done else "")
        assert ends.link() == ("known_secret" if done else "")
        assert len(ends.server) == done


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["nothing", "message 1", "message 2", "first record", "all"])))
def test_lost_messages_do_not_lose_the_secret(links: list[str]) -> None:
    ends = Ends()
    ends.link()
    for reached in links:
        ends.link(reached)  # would raise SecretForgottenError
    assert ends.link() == "known_secret"
    assert len(ends.server) == 1


def test_no_two_links_have_one_secret() -> None:
    ends = Ends()
    ends.link()
    seen = set()
    for _ in range(20):
        step = ends.client.find(b"K", 0.0)
        assert step is not None
        seen |= {step.name, step.secret}
        ends.link()
    assert len(seen) == 40


def test_a_secret_that_was_used_twice_over_is_gone() -> None:
    ends = Ends()
    ends.link()
    first = ends.client.find(b"K", 0.0)
    assert first is not None
    ends.link()
    assert ends.server.find(b"C", first.name, 0.0) == first, "its answer may have been lost"
    ends.link()
    assert ends.server.find(b"C", first.name, 0.0) is None
    assert ends.server.find(b"other", first.next().name, 0.0) is None


def test_a_client_exchanges_anew_after_an_hour_and_a_server_forgets_later() -> None:
    ends = Ends()
    ends.link()
    ends.now = FRESH_EXCHANGE_AFTER - 1
    assert ends.link() == "known_secret"
    ends.now = FRESH_EXCHANGE_AFTER
    assert ends.link() == "kem_ciphertext"
    assert len(ends.server) == 2
    ends.now = KEEP_EXCHANGE
    assert ends.link() == "kem_ciphertext"
    assert len(ends.server) == 2, "the first one has expired"
    ends.now *= 3
    assert ends.server.find(b"C", b"", ends.now) is None
    assert len(ends.server) == 0


def test_a_client_key_leaves_only_so_many() -> None:
    secrets = ServerSecrets()
    steps = [first_step(bytes([n]) * 32, bytes(32)) for n in range(EXCHANGES_PER_CLIENT + 2)]
    for step in steps:
        secrets.learned(b"C", step, 0.0)
    assert len(secrets) == EXCHANGES_PER_CLIENT
    assert secrets.find(b"C", steps[1].name, 0.0) is None
    assert secrets.find(b"C", steps[2].name, 0.0) == steps[2]
    secrets.learned(b"D", steps[0], 0.0)
    assert len(secrets) == EXCHANGES_PER_CLIENT + 1
    secrets.find(b"C", b"", KEEP_EXCHANGE)
    assert len(secrets) == 0


def test_a_server_that_forgot_says_so_and_the_client_drops_its_secret() -> None:
    ends = Ends(REQUIRE, REQUIRE)
    ends.link()
    ends.server = ServerSecrets()
    with pytest.raises(SecretForgottenError):
        ends.link()
    assert ends.link() == "kem_ciphertext"


@pytest.mark.parametrize("fields", [{"kem_ciphertext": bytes(1088)}, {"known_secret": bytes(16)}])
@pytest.mark.parametrize("policy", [OFF, AUTO])
def test_an_answer_that_was_not_asked_for_is_refused(
    policy: PostQuantum, fields: dict[str, Any]
) -> None:
    exchange = ClientExchange(policy, b"K", None, entropy, 0.0)
    if policy is AUTO and "kem_ciphertext" in fields:
        assert exchange.finish(HandshakePayload(**fields), KEYS).post_quantum
        return
    with pytest.raises(RemoteProtocolError):
        exchange.finish(HandshakePayload(**fields), KEYS)


def test_a_client_may_send_a_key_beside_a_name() -> None:
    payload = HandshakePayload(known_secret=bytes(16), encapsulation_key=KeyPair(entropy).public)
    exchange = ServerExchange(REQUIRE, ServerSecrets(), b"C", payload, 0.0)
    assert not exchange.redo
    assert list(exchange.answer()) == ["kem_ciphertext"]


def test_a_name_alone_that_is_unknown_makes_no_link() -> None:
    payload = HandshakePayload(known_secret=bytes(16))
    for policy in (AUTO, REQUIRE):
        exchange = ServerExchange(policy, ServerSecrets(), b"C", payload, 0.0)
        assert exchange.redo and exchange.answer() == {}


# -- in the whole tunnel ------------------------------------------------------------------------


def up(**settings: Any) -> Stack:
    stack = Stack(**settings)
    stack.dialer.start()
    stack.run()
    return stack


def post_quantum(stack: Stack) -> bool:
    assert stack.dialer.mux is not None
    session = stack.dialer._session
    assert session is not None and session.link is not None
    return bool(session.link.transport.post_quantum)


@pytest.mark.parametrize("mode", list(Mode))
def test_links_that_resume_are_small_and_post_quantum(mode: Mode) -> None:
    stack = up(mode=mode)
    protocol = Recorder()
    stack.outbound.connect(SOMEWHERE, protocol)
    stack.run()
    assert post_quantum(stack)
    for _ in range(3):
        stack.pipes[-1].cut()
        stack.run(2)
        assert post_quantum(stack)
    assert len(stack.pipes) == 4 and len(stack.registry) == 1
    assert len(stack.factory._secrets) == 1, "one exchange for all four"
    protocol.transport.write(b"still here")
    stack.run()
    assert protocol.data == b"still here"


def test_after_a_restart_of_the_server_the_same_attempt_exchanges_anew() -> None:
    stack = up()
    assert post_quantum(stack)
    stack.restart_server()
    stack.run(2)
    assert post_quantum(stack)
    assert len(stack.factory._secrets) == 1
    assert stack.dialer.last_failure is None
    assert stack.client_meters.counts["link.failed"] == 0


def test_a_required_exchange_that_is_refused_is_explained() -> None:
    stack = Stack(post_quantum=REQUIRE)
    stack.factory._post_quantum = OFF
    stack.dialer.start()
    stack.run(3)
    assert stack.dialer.mux is None and len(stack.registry) == 0
    assert stack.dialer.last_failure is not None
    assert "post_quantum" in stack.dialer.last_failure.getErrorMessage()


def test_a_server_that_requires_it_is_silent_to_others() -> None:
    stack = Stack(post_quantum=OFF)
    stack.factory._post_quantum = REQUIRE
    stack.dialer.start()
    stack.run(3)
    assert stack.strangers.count == 1
    assert stack.pipes[0].carried[1] == 0


def test_a_bad_key_is_a_stranger_who_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack()
    inserted: list[bool] = []

    class Asked:
        def check(self, *arguments: Any, insert: bool) -> Any:
            inserted.append(insert)

    stack.gate.replay = Asked()
    monkeypatch.setattr(KeyPair, "__init__", lambda self, entropy: None)
    monkeypatch.setattr(KeyPair, "public", b"\xff" * 1184, raising=False)
    stack.dialer.start()
    stack.run(3)
    assert stack.strangers.count == 1 and inserted == [False]
    assert stack.pipes[0].carried[1] == 0
