"""Which endpoints the client believes in, and what it lets a server tell it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.pipes import run
from support.runtime import FakeTime, fake_runtime
from twisted.internet.task import Clock

from phantom.core.endpoint_choice import DEMOTE_AFTER, PATIENT_STAGGER, STAGGER
from phantom.core.endpoint_list import EndpointList, ServerEndpoint
from phantom.crypto.identity import public_of, sign
from phantom.telemetry import Meters
from phantom.tunnel.endpoint_memory import MemoryFile
from phantom.tunnel.endpoints import (
    PUSH_BURST,
    SAVE_AFTER,
    KnownEndpoints,
    network_of,
)

IDENTITY = bytes(range(1, 33))
ONE, TWO, THREE = (bytes([i]) * 32 for i in (1, 2, 3))


def at(name: str, key: bytes = ONE) -> ServerEndpoint:
    return ServerEndpoint(host=name, port=443, public_key=key)


def signed(*endpoints: ServerEndpoint, version: int = 1, issued: int = 0) -> bytes:
    made = EndpointList(version=version, issued=issued, endpoints=endpoints)
    return sign(made, IDENTITY)


class Client:
    """A client's knowledge; `again` is what the next process makes of it."""

    def __init__(self, folder: Path | None = None, *configured: ServerEndpoint) -> None:
        self.clock = Clock()
        self.time = FakeTime(self.clock)
        self.runtime = fake_runtime(self.clock, time=self.time)
        self.meters = Meters()
        self.folder = folder
        self.configured = configured or (at("a"), at("b"))
        self.known = self._start()

    def _start(self, identity: bytes | None = None) -> KnownEndpoints:
        file = MemoryFile(self.folder, "test") if self.folder else None
        return KnownEndpoints(
            self.runtime,
            self.configured,
            self.meters,
            identity=identity or public_of(IDENTITY),
            file=file,
        )

    def again(self, *configured: ServerEndpoint, identity: bytes | None = None) -> None:
        self.known.close()
        self.configured = configured or self.configured
        self.known = self._start(identity)

    @property
    def names(self) -> str:
        return "".join(str(endpoint.host) for endpoint in self.known.candidates)

    def order(self, **how) -> str:
        return "".join(str(endpoint.host) for endpoint in self.known.course(**how).endpoints)


def test_without_a_list_the_file_counts() -> None:
    client = Client()
    assert client.names == "ab" and client.known.trusts(ONE) and not client.known.trusts(TWO)


def test_a_list_takes_the_place_of_the_file_but_for_listed_hosts() -> None:
    client = Client(None, at("a"), at("b", TWO))
    assert client.known.learn(signed(at("x"), at("y", THREE)))
    assert client.names == "xya", "b's host is not trusted any more"
    assert [client.known.trusts(key) for key in (ONE, TWO, THREE)] == [True, False, True]
    assert client.meters.counts["endpoints.learned"] == 1


def test_newer_lists_replace_older_ones_and_never_the_other_way() -> None:
    client = Client()
    assert client.known.learn(signed(at("x"), version=5))
    assert not client.known.learn(signed(at("o"), version=4))
    assert not client.known.learn(signed(at("o"), version=5)), "same version, another content"
    assert client.meters.counts["endpoints.refused"] == 2
    assert client.names == "xab"
    assert not client.known.learn(signed(at("x"), version=5, issued=99)), "signed again: no news"
    assert client.meters.counts["endpoints.refused"] == 2
    assert client.known.learn(signed(at("y"), version=6))
    assert client.names == "yab"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense",
        bytes(100),
        sign(EndpointList(version=9, issued=0, endpoints=(at("evil"),)), bytes(32)),
    ],
)
def test_forgeries_are_refused(data: bytes) -> None:
    client = Client()
    assert not client.known.learn(data)
    assert client.names == "ab" and client.meters.counts["endpoints.refused"] == 1


def test_without_an_identity_nothing_is_taken() -> None:
    client = Client()
    client.known = KnownEndpoints(client.runtime, client.configured, client.meters)
    assert not client.known.learn(signed(at("x")))
    assert client.names == "ab" and "endpoints.refused" not in client.meters.counts


def test_a_flood_of_lists_is_not_even_looked_at() -> None:
    client = Client()
    for version in range(1, 100):
        client.known.learn(signed(at("x"), version=version))
    assert client.meters.counts["endpoints.learned"] == PUSH_BURST


def test_the_next_process_remembers_and_still_refuses_rollback(tmp_path: Path) -> None:
    client = Client(tmp_path)
    client.known.learn(signed(at("x", TWO), version=5))
    client.again()
    assert client.names == "x"
    assert not client.known.learn(signed(at("o"), version=4))
    assert client.names == "x"


def test_another_identity_believes_nothing_remembered(tmp_path: Path) -> None:
    client = Client(tmp_path)
    client.known.learn(signed(at("x", TWO), version=5))
    client.again(identity=public_of(bytes(32)))
    assert client.names == "ab"


def test_a_forged_file_is_not_believed(tmp_path: Path) -> None:
    client = Client(tmp_path)
    client.known.learn(signed(at("x"), version=5))
    file = MemoryFile(tmp_path, "test")
    memory = file.load()
    memory.signed = sign(
        EndpointList(version=9, issued=0, endpoints=(at("evil"),)), bytes(range(32))
    )
    file.save(memory)
    client.again()
    assert client.names == "ab"


def test_a_changed_file_is_the_users_last_word_until_the_server_confirms(tmp_path: Path) -> None:
    client = Client(tmp_path)
    client.known.learn(signed(at("x", TWO), version=5))
    client.again(at("new", THREE))
    assert client.names == "newx"
    assert client.known.trusts(THREE) and client.known.trusts(TWO)
    assert not client.known.learn(signed(at("x", TWO), version=5))
    assert client.names == "x", "the server knows of no such host"
    client.again()
    assert client.names == "x"


def test_what_worked_is_written_down_soon_and_at_the_end(tmp_path: Path) -> None:
    client = Client(tmp_path)
    client.known.worked(at("b"), client.known.network)
    assert not list(tmp_path.iterdir())
    run(client.clock, SAVE_AFTER)
    assert len(list(tmp_path.iterdir())) == 1
    client.time.local_address = "203.0.113.1"
    client.known.worked(at("a"), client.known.network)
    client.again()
    assert client.order() == "ab"
    client.time.local_address = "198.51.100.200"  # the same /24 as at first
    assert client.order() == "ba"
    assert not client.clock.getDelayedCalls()


def test_a_live_hosts_endpoints_come_apart_from_the_others() -> None:
    client = Client(None, at("a"), at("b", TWO), at("c"), at("d", TWO))
    client.known.worked(at("a"), client.known.network)

    def split(host: bytes | None) -> tuple[str, str]:
        course = client.known.course(host)
        first, others = (
            "".join(str(endpoint.host) for endpoint in group)
            for group in (course.endpoints, course.others)
        )
        return first, others

    assert split(None) == ("abcd", "")
    assert split(TWO) == ("bd", "ac")
    assert split(THREE) == ("", "abcd")


def test_the_race_is_on_when_unsure_or_in_a_hurry() -> None:
    client = Client()

    def stagger(**how) -> float:
        return client.known.course(**how).stagger

    assert STAGGER[0] <= stagger() <= STAGGER[1]
    client.known.worked(at("a"), client.known.network)
    assert PATIENT_STAGGER[0] <= stagger() <= PATIENT_STAGGER[1]
    assert stagger(hurry=True) <= STAGGER[1]


def test_failures_without_a_network_and_losses_by_moving_count_for_nothing() -> None:
    client = Client()
    home = client.known.network
    for _ in range(DEMOTE_AFTER):
        client.known.failed(at("a"), "")
        client.time.local_address = "203.0.113.1"
        client.known.lost(at("a"), home, 1.0)
        client.time.local_address = "198.51.100.7"
    assert client.order() == "ab"
    for _ in range(DEMOTE_AFTER):
        client.known.lost(at("a"), home, 1.0)
    assert client.order() == "b"


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.168.1.77", "192.168.1.0/24"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("nonsense", ""),
    ],
)
def test_networks(address: str, network: str) -> None:
    assert network_of(address) == network
