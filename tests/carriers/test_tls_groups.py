"""Which groups the server's TLS offers: those of the machine's own nginx, unless told otherwise."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from phantom.carriers import tls_groups
from phantom.carriers.tls_openssl import ServerCertificates

OLD, NEW = (3, 0), (3, 5)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    tls_groups._binding.cache_clear()
    yield
    tls_groups._binding.cache_clear()


def first_flight(certificate: Any, groups: str = tls_groups.AUTO, curve: str = "X25519") -> Any:
    """Return the server's first records, type and size each, to a client that knows one group."""
    server = ServerCertificates(certificate[0], certificate[1], groups=groups).engine()
    server.start()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ecdh_curve(curve)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(back, there, server_hostname="server.test")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    server.receive(there.read())
    flight, records = server.outgoing(), []
    while flight:
        size = int.from_bytes(flight[3:5], "big")
        records.append((flight[0], size))
        flight = flight[5 + size :]
    return records


#: EncryptedExtensions: 10 bytes of message with an answer to the server name, 1 of type, 16 of
#: tag, and the groups, 6 bytes and 2 for each, where the favourite one was not used.
def extensions(groups: int = 0) -> tuple[int, int]:
    return 23, 10 + 1 + 16 + (6 + 2 * groups if groups else 0)


@pytest.mark.parametrize(
    ("version", "curve", "listed"),
    [
        ((1, 1), "X25519", 0),
        ((1, 1), "prime256v1", 5),
        (OLD, "X25519", 0),
        (OLD, "prime256v1", 10),
        ((3, 4), "X25519", 0),
        (NEW, "X25519", 8),
        (NEW, "prime256v1", 8),
        (None, "X25519", 8),
    ],
)
def test_the_machines_openssl_decides(
    certificate: Any,
    monkeypatch: pytest.MonkeyPatch,
    version: tuple[int, int] | None,
    curve: str,
    listed: int,
) -> None:
    monkeypatch.setattr(tls_groups, "system_version", lambda: version)
    records = first_flight(certificate, curve=curve)
    assert [kind for kind, _ in records[:3]] == [22, 20, 23]
    assert records[2] == extensions(listed)


def test_a_list_decides(certificate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_groups, "system_version", lambda: NEW)
    assert first_flight(certificate, "X25519:P-256")[2] == extensions()
    assert first_flight(certificate, "P-256:X25519")[2] == extensions(2)
    assert first_flight(certificate, tls_groups.LIBRARY)[2] >= extensions(8)


def test_without_the_private_parts_it_is_the_librarys_choice_and_said_once(
    certificate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def nothing(_self: Any) -> None:
        raise AttributeError("SSL_CTX_set1_curves_list")

    monkeypatch.setattr(tls_groups._Binding, "__init__", nothing)
    monkeypatch.setattr(tls_groups.log, "warn", said.append)
    monkeypatch.setattr(tls_groups, "system_version", lambda: OLD)
    plain = first_flight(certificate, tls_groups.LIBRARY)[2]
    assert first_flight(certificate)[2] == first_flight(certificate)[2] == plain
    assert len(said) == 1 and "does not let tls_groups be set" in said[0]


def test_an_openssl_that_does_not_know_the_list_keeps_its_own(
    certificate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(tls_groups.log, "warn", said.append)
    plain = first_flight(certificate, tls_groups.LIBRARY)[2]
    assert first_flight(certificate, "X25519:of-tomorrow")[2] == plain
    assert len(said) == 1 and "does not know the groups" in said[0]


@pytest.mark.parametrize(
    ("groups", "unknown"),
    [
        ("X25519:P-256", []),
        (tls_groups.AUTO, []),
        (tls_groups.LIBRARY, []),
        ("X25519:of-tomorrow:P-256", ["of-tomorrow"]),
        ("X25519::P-256", [""]),
    ],
)
def test_names_that_openssl_does_not_know(groups: str, unknown: list[str]) -> None:
    assert tls_groups.unknown_groups(groups) == unknown


def test_this_machine_has_an_openssl_of_its_own() -> None:
    version = tls_groups.system_version()
    if version is None:
        pytest.skip("no libcrypto.so here")
    if ssl.OPENSSL_VERSION_INFO[:2] == (3, version[1]):
        assert version == ssl.OPENSSL_VERSION_INFO[:2]
    assert (1, 1) <= version < (4, 0)
