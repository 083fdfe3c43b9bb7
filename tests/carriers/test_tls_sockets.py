"""TLS over real sockets: who is accepted, what a refusal says, what a reload changes."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

from phantom.carriers import tls_client, tls_utls
from phantom.carriers.registry import client_endpoint
from phantom.carriers.tls_client import TLSClientEndpoint, TLSClientSettings
from phantom.carriers.tls_openssl import ServerCertificates
from phantom.carriers.tls_server import TLSServerFactory, server_engines
from phantom.carriers.verify import format_pin, parse_pin
from phantom.errors import ConfigurationError, HandshakeError


class Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


class Collect(Protocol):
    def __init__(self) -> None:
        self.received = b""
        self.lost: Deferred[Any] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.transport.loseConnection()

    def connectionLost(self, reason: Any) -> None:
        self.lost.callback(reason.type)


@pytest.fixture(params=["openssl", "utls"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "openssl":
        monkeypatch.setattr(tls_utls, "AVAILABLE", False)
    elif not tls_utls.AVAILABLE:
        pytest.skip("the package utls is not installed")
    return request.param


@pytest.fixture
def listen(reactor: Any, live_runtime: Any) -> Any:
    ports: list[Any] = []

    def start(certificates: ServerCertificates, protocol: Any = Echo) -> int:
        factory = TLSServerFactory(live_runtime, certificates, Factory.forProtocol(protocol))
        ports.append(reactor.listenTCP(0, factory, interface="127.0.0.1"))
        return ports[-1].getHost().port

    yield start
    for port in ports:
        port.stopListening()


async def _exchange(runtime: Any, port: int, **settings: Any) -> bytes:
    settings.setdefault("sni", "server.test")
    endpoint = client_endpoint(runtime, "127.0.0.1", port, TLSClientSettings(**settings))
    protocol = await endpoint.connect(Factory.forProtocol(Collect))
    assert protocol.transport.alpn == "http/1.1"
    protocol.transport.write(b"hello")
    await protocol.lost
    return protocol.received


async def test_extra_authority(
    engine: str, listen: Any, live_runtime: Any, authority: Any, certificate: Any
) -> None:
    port = listen(ServerCertificates(certificate[0], certificate[1]))
    assert await _exchange(live_runtime, port, ca_file=authority.ca_file) == b"hello"


async def test_address_in_the_certificate(
    engine: str, listen: Any, live_runtime: Any, authority: Any
) -> None:
    cert, key, _ = authority.issue("127.0.0.1")
    port = listen(ServerCertificates(cert, key))
    ca = authority.ca_file
    assert await _exchange(live_runtime, port, sni="127.0.0.1", ca_file=ca) == b"hello"
    with pytest.raises(HandshakeError, match=r"not for 127\.0\.0\.2"):
        await _exchange(live_runtime, port, sni="127.0.0.2", ca_file=ca)


@pytest.mark.parametrize(
    ("issue", "trusted", "says"),
    [
        ({"end_days": -1, "start_days": -9}, True, "expired on 2026-05-31"),
        ({"start_days": 2}, True, "valid only from 2026-06-03"),
        ({"name": "other.test"}, True, "not for server.test; correct tls_sni"),
        ({}, False, "authority unknown here; set tls_ca"),
        ({"self_signed": True}, True, 'or tls_pin = "sha256/'),
        ({"usage": ExtendedKeyUsageOID.CLIENT_AUTH}, True, "not one for a server"),
    ],
)
async def test_bad_certificates(
    engine: str,
    listen: Any,
    live_runtime: Any,
    authority: Any,
    issue: Any,
    trusted: bool,
    says: str,
) -> None:
    cert, key, pin = authority.issue(**issue)
    port = listen(ServerCertificates(cert, key))
    ca_file = authority.ca_file if trusted else None
    with pytest.raises(HandshakeError) as caught:
        await _exchange(live_runtime, port, ca_file=ca_file)
    assert says in str(caught.value)
    # A pin asks for nothing else.
    assert await _exchange(live_runtime, port, pin=pin) == b"hello"


async def test_wrong_pin_shows_the_right_one(
    engine: str, listen: Any, live_runtime: Any, authority: Any, certificate: Any
) -> None:
    port = listen(ServerCertificates(certificate[0], certificate[1]))
    with pytest.raises(HandshakeError) as caught:
        await _exchange(live_runtime, port, pin=bytes(32), ca_file=authority.ca_file)
    assert format_pin(certificate[2]) in str(caught.value)
    assert parse_pin(format_pin(certificate[2])) == certificate[2]


@pytest.mark.parametrize("text", ["", "sha256/", "sha256/AAAA", "sha1/AAAA", "sha256/***"])
def test_malformed_pins(text: str) -> None:
    with pytest.raises(ValueError):
        parse_pin(text)


async def test_not_tls_at_the_other_end(engine: str, reactor: Any, live_runtime: Any) -> None:
    class Plain(Protocol):
        def dataReceived(self, data: bytes) -> None:
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    port = reactor.listenTCP(0, Factory.forProtocol(Plain), interface="127.0.0.1")
    try:
        with pytest.raises(HandshakeError, match="is it TLS at the other end"):
            await _exchange(live_runtime, port.getHost().port)
    finally:
        await port.stopListening()


async def test_closed_at_once(engine: str, reactor: Any, live_runtime: Any) -> None:
    class Rude(Protocol):
        def connectionMade(self) -> None:
            self.transport.loseConnection()

    port = reactor.listenTCP(0, Factory.forProtocol(Rude), interface="127.0.0.1")
    try:
        with pytest.raises(HandshakeError, match="ended during the TLS handshake"):
            await _exchange(live_runtime, port.getHost().port)
    finally:
        await port.stopListening()


async def test_silence_times_out_and_can_be_cancelled(
    engine: str, reactor: Any, live_runtime: Any
) -> None:
    port = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
    inner = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
    settings = TLSClientSettings(sni="server.test")
    try:
        endpoint = TLSClientEndpoint(live_runtime, inner, settings, timeout=0.2)
        with pytest.raises(HandshakeError, match="timed out"):
            await endpoint.connect(Factory.forProtocol(Collect))
        endpoint = TLSClientEndpoint(live_runtime, inner, settings)
        attempt = endpoint.connect(Factory.forProtocol(Collect))
        reactor.callLater(0.1, attempt.cancel)
        with pytest.raises(CancelledError):
            await attempt
    finally:
        await port.stopListening()


def test_unusable_settings(live_runtime: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        client_endpoint(
            live_runtime, "h", 1, TLSClientSettings(sni="s", ca_file=str(tmp_path / "none"))
        )
    (tmp_path / "empty").write_text("nothing")
    with pytest.raises(ConfigurationError, match="holds no PEM"):
        client_endpoint(
            live_runtime, "h", 1, TLSClientSettings(sni="s", ca_file=str(tmp_path / "empty"))
        )
    if tls_utls.AVAILABLE:
        with pytest.raises(ConfigurationError, match="chrome"):
            client_endpoint(live_runtime, "h", 1, TLSClientSettings(sni="s", profile="lynx"))


def test_fallback_is_announced_once(live_runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Log:
        def warn(self, text: str) -> None:
            said.append(text)

    monkeypatch.setattr(tls_client, "log", Log())
    monkeypatch.setattr(tls_client, "_told_of_fallback", False)
    monkeypatch.setattr(tls_utls, "AVAILABLE", False)
    for _ in range(2):
        client_endpoint(live_runtime, "h", 1, TLSClientSettings(sni="s"))
    assert len(said) == 1 and "pip install 'phantom[utls]'" in said[0]


@pytest.mark.parametrize("server", ["openssl", "boringssl"])
async def test_reload_keeps_what_works(
    listen: Any, live_runtime: Any, authority: Any, tmp_path: Path, server: str
) -> None:
    if server == "boringssl" and not tls_utls.AVAILABLE:
        pytest.skip("the package utls is not installed")
    old, new = authority.issue(), authority.issue()
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    shutil.copy(old[0], cert)
    shutil.copy(old[1], key)
    certificates = server_engines(server, str(cert), str(key))
    port = listen(certificates)
    endpoint = client_endpoint(
        live_runtime, "127.0.0.1", port, TLSClientSettings(sni="server.test", pin=old[2])
    )
    live = await endpoint.connect(Factory.forProtocol(Collect))

    shutil.copy(new[0], cert)
    with pytest.raises(ConfigurationError, match=r"does not belong.*is kept"):
        certificates.reload()
    key.unlink()
    with pytest.raises(ConfigurationError, match=r"cannot be read.*is kept"):
        certificates.reload()
    key.write_text("rubbish")
    with pytest.raises(ConfigurationError, match=r"not usable PEM.*is kept"):
        certificates.reload()
    assert await _exchange(live_runtime, port, pin=old[2]) == b"hello"

    shutil.copy(new[1], key)
    certificates.reload()
    assert await _exchange(live_runtime, port, pin=new[2]) == b"hello"
    with pytest.raises(HandshakeError):
        await _exchange(live_runtime, port, pin=old[2])
    live.transport.write(b"still here")
    await live.lost
    assert live.received == b"still here"


@pytest.mark.skipif(not tls_utls.AVAILABLE, reason="the package utls is not installed")
def test_hello_is_that_of_a_browsers_websocket() -> None:
    # JA4 of Chromium 156 opening wss:// (no application_settings, ALPN http/1.1 alone).

    fingerprint = tls_utls.browser_fingerprint("chrome", ("http/1.1",)).to_dict()
    assert fingerprint["alpn"] == ["http/1.1"] and not fingerprint["alps"]
    engine = tls_utls.UTLSClientEngines("server.test", ("http/1.1",), "chrome").engine()
    engine.start()
    hello = engine.outgoing()
    extensions = _extensions(hello)
    real = {0, 5, 10, 11, 13, 16, 18, 23, 27, 35, 43, 45, 51, 0xCA34, 65037, 65281}
    assert {kind for kind in extensions if kind & 0x0F0F != 0x0A0A} == real
    assert extensions[16] == b"\x00\x09\x08http/1.1"
    anchors, found = extensions[0xCA34][2:], []
    while anchors:
        found.append(anchors[1 : 1 + anchors[0]])
        anchors = anchors[1 + anchors[0] :]
    assert found == sorted(found) and len(found) > 20


@pytest.mark.skipif(not tls_utls.AVAILABLE, reason="the package utls is not installed")
def test_hello_is_that_of_a_page_load() -> None:
    """JA4 of Chromium 156 is t13d1517h2_8daaf6152771_cb7bf5808d99 (CENSOR, section 5)."""
    settings = TLSClientSettings(sni="server.test")
    fingerprint = tls_utls.browser_fingerprint("chrome", settings.alpn)
    assert fingerprint.ja4_hash == "t13d1517h2_8daaf6152771_cb7bf5808d99"
    engine = tls_client._client_engines(settings).engine()
    engine.start()
    extensions = _extensions(engine.outgoing())
    assert extensions[16] == b"\x00\x0c\x02h2\x08http/1.1" and 17613 in extensions


@pytest.mark.skipif(not tls_utls.AVAILABLE, reason="the package utls is not installed")
def test_random_is_one_browser_for_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = set()
    for _ in range(60):
        monkeypatch.setattr(tls_utls, "_drawn", None)
        drawn.add(tls_utls.preset_of("random"))
        assert tls_utls.preset_of("random") == tls_utls.preset_of("random")
    assert len(drawn) > 3 and tls_utls.preset_of("chrome") in drawn
    stable = tls_utls.utls.get_preset("chrome:stable").to_dict()
    assert tls_utls.utls.get_preset(tls_utls.preset_of("chrome")).to_dict() == stable


@pytest.mark.skipif(not tls_utls.AVAILABLE, reason="the package utls is not installed")
def test_encrypted_hello() -> None:
    """The name in the list goes in the clear, the true one does not."""
    public = X25519PrivateKey.generate().public_key().public_bytes_raw()
    name = b"front.example"
    # id, KEM X25519 (0x20), key, HKDF-SHA256 with AES-128-GCM, length, name, no extensions.
    body = b"\x07\x00\x20\x00\x20" + public + b"\x00\x04\x00\x01\x00\x01" + b"\x00"
    body += bytes((len(name),)) + name + b"\x00\x00"
    one = b"\xfe\x0d" + len(body).to_bytes(2, "big") + body
    ech = len(one).to_bytes(2, "big") + one
    settings = TLSClientSettings(sni="secret.example", ech=ech)
    engine = tls_client._client_engines(settings).engine()
    engine.start()
    hello = engine.outgoing()
    assert _extensions(hello)[0][5:] == name and b"secret" not in hello
    with pytest.raises(ConfigurationError, match="tls_ech"):
        tls_client._client_engines(attrs.evolve(settings, ech=ech[:-3]))


def test_an_encrypted_hello_needs_the_browsers_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_utls, "AVAILABLE", False)
    with pytest.raises(ConfigurationError, match="needs the package"):
        tls_client._client_engines(TLSClientSettings(sni="a", ech=b"x"))


def _extensions(record: bytes) -> dict[int, bytes]:
    at = 5 + 4 + 2 + 32
    at += 1 + record[at]
    at += 2 + int.from_bytes(record[at : at + 2], "big")
    at += 1 + record[at]
    at += 2
    found = {}
    while at < len(record):
        size = int.from_bytes(record[at + 2 : at + 4], "big")
        found[int.from_bytes(record[at : at + 2], "big")] = record[at + 4 : at + 4 + size]
        at += 4 + size
    return found


def _handshake(port: int, alpn: list[str], version: ssl.TLSVersion | None = None) -> Any:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(alpn)
    if version is not None:
        context.maximum_version = version
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as raw,
        context.wrap_socket(raw, server_hostname="anything.test") as tls,
    ):
        tls.sendall(b"x")
        return tls.recv(1), tls.selected_alpn_protocol(), tls.version()


async def test_server_chooses_like_nginx(listen: Any, certificate: Any) -> None:
    port = listen(ServerCertificates(certificate[0], certificate[1]))
    for offered, chosen in (
        (["h2", "http/1.1"], "http/1.1"),
        (["http/1.0", "x"], "http/1.0"),
        ([], None),
    ):
        answer = await deferToThread(_handshake, port, offered)
        assert answer == (b"x", chosen, "TLSv1.3")
    answer = await deferToThread(_handshake, port, [], ssl.TLSVersion.TLSv1_2)
    assert answer == (b"x", None, "TLSv1.2")
    with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
        await deferToThread(_handshake, port, ["h2"])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program")
async def test_openssl_s_client(listen: Any, authority: Any, certificate: Any) -> None:
    port = listen(ServerCertificates(certificate[0], certificate[1]))

    def run() -> str:
        command = [
            "openssl",
            "s_client",
            "-connect",
            f"127.0.0.1:{port}",
            "-servername",
            "server.test",
            "-CAfile",
            authority.ca_file,
            "-attime",
            "1780300000",
            "-verify_return_error",
        ]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(b"over the wire\n")
            process.stdin.flush()
            text = ""
            for line in process.stdout:
                text += line.decode("latin-1")
                if line.startswith(b"over the wire"):
                    break
            process.stdin.write(b"Q\n")
            process.stdin.close()
            process.wait(5)
        return text

    text = await deferToThread(run)
    assert "Verify return code: 0 (ok)" in text and "over the wire" in text
