"""The demo as a program: what ``phantom demo`` runs."""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

from phantom.app.client import ClientService
from phantom.app.demo_check import (
    DestinationFactory,
    Downloader,
    Measured,
    http_greeting,
    socks5_greeting,
)
from phantom.app.listening import ListeningService, bind
from phantom.app.server import ServerService
from phantom.config.keys import PrivateKey
from phantom.config.load import load_client, load_server
from phantom.config.values import ListenAddress
from phantom.core.handshake import Cipher
from phantom.errors import PhantomError
from phantom.runtime import Runtime

#: Seconds the demo waits for its own link, and for a download.
PATIENCE = 30.0
#: The name in the demo's certificate and hello; reserved for such uses (RFC 6761).
NAME = "demo.example"

_LOOPBACK = IPv4Address("127.0.0.1")

SERVER_TOML = """\
[server]
listen = "127.0.0.1:0"
private_key = "{server_key}"
allowed_clients = ["{client_public}"]
tls_cert = "cert.pem"
tls_key = "key.pem"
state_dir = "state"
[server.egress]
allow = ["127.0.0.1:{destination_port}"]
"""

CLIENT_TOML = """\
[client]
server = "127.0.0.1:{server_port}"
server_public_key = "{server_public}"
private_key = "{client_key}"
socks5_listen = "127.0.0.1:{socks5_port}"
http_listen = "127.0.0.1:{http_port}"
tls_sni = "{name}"
tls_pin = "sha256/{pin}"
"""


class Demo:
    """A server, a client, a destination, and downloads through all of them.

    Args:
        runtime: The outside world.
        folder: An empty folder for the configuration files, the certificate and the state.
        socks5_port: Where the SOCKS5 proxy listens; 0 for any free port.
        http_port: Likewise for the HTTP proxy.
        size: Bytes of each download.
        say: Prints a line.
        progress: Called with a title, the bytes so far and the bytes in all.

    Attributes:
        failed: Whether the check has failed, or is not over.

    Raises:
        ConfigurationError: A port cannot be bound.
    """

    def __init__(
        self,
        runtime: Runtime,
        folder: Path,
        *,
        socks5_port: int,
        http_port: int,
        size: int,
        say: Callable[[str], object],
        progress: Callable[[str, int, int], None],
    ) -> None:
        self._runtime = runtime
        self._say = say
        self._progress = progress
        self.failed = False
        self._destination = DestinationFactory(runtime.entropy, size)
        self._target = ListeningService(
            runtime, bind(ListenAddress(_LOOPBACK, 0), "the demo's destination"), self._destination
        )
        server_key = PrivateKey.generate(runtime.entropy)
        client_key = PrivateKey.generate(runtime.entropy)
        pin = make_certificate(folder, runtime.wall_time())
        self._server = self._make_server(folder, server_key, client_key)
        self._client = self._make_client(
            folder,
            CLIENT_TOML.format(
                server_port=self._server.addresses[0][1],
                server_public=server_key.public(),
                client_key=key_text(client_key),
                socks5_port=socks5_port,
                http_port=http_port,
                name=NAME,
                pin=pin,
            ),
        )

    def _make_server(
        self, folder: Path, server_key: PrivateKey, client_key: PrivateKey
    ) -> ServerService:
        text = SERVER_TOML.format(
            server_key=key_text(server_key),
            client_public=client_key.public(),
            destination_port=self._target.address[1],
        )
        path = write_private(folder / "server.toml", text)
        return ServerService(self._runtime, load_server(path).server)

    def _make_client(self, folder: Path, text: str) -> ClientService:
        path = write_private(folder / "client.toml", text)
        return ClientService(self._runtime, load_client(path).client)

    def start(self, *, stop_after: bool) -> Deferred[None]:
        """Start everything, check it, and tell.

        Args:
            stop_after: Whether the program ends after the check.

        Returns:
            A Deferred that fires when the check is done; it only fails, and then `failed` is
            set, when nothing can be told.
        """
        return Deferred.fromCoroutine(self._start(stop_after))

    async def _start(self, stop_after: bool) -> None:
        self.failed = True
        await self._check()
        if not self.failed and not stop_after:
            self._tell_what_to_try()

    async def _check(self) -> None:
        """Start everything and send the downloads; `failed` says how it went."""
        for service in (self._target, self._server, self._client):
            service.startService()
        self._say("phantom demo: a server and a client with fresh keys, on this machine")
        began = self._runtime.clock.seconds()
        try:
            ready = self._client.dialer.when_ready()
            ready.addTimeout(PATIENCE, self._runtime.clock)
            await ready
            self._tell_link(self._runtime.clock.seconds() - began)
            await self._download("SOCKS5", self._client.socks5_address, socks5_greeting)
            await self._download("HTTP CONNECT", self._client.http_address, http_greeting)
            self.failed = False
        except Exception as error:  # whatever it is, the demo says it and ends with status 1
            why = str(error) if isinstance(error, PhantomError) else repr(error)
            last = self._client.dialer.last_failure
            self._say(f"  FAILED: {why}" + (f" ({last.getErrorMessage()})" if last else ""))

    def _tell_link(self, seconds: float) -> None:
        ciphers = {Cipher.AESGCM: "AES-256-GCM", Cipher.CHACHAPOLY: "ChaCha20-Poly1305"}
        from phantom.carriers import tls_utls

        hello = (
            "Chrome's hello" if tls_utls.AVAILABLE else "OpenSSL's hello (install phantom[utls])"
        )
        self._say(f"  link          TLS with {hello}, certificate pinned")
        self._say(f"  handshake     Noise IK, X25519, {ciphers[self._client.cipher]}, SHA-256")
        self._say(f"                ready after {seconds * 1000:.0f} ms (TCP, TLS and Noise)")

    async def _download(
        self, title: str, address: tuple[Any, ...] | None, greeting: Callable[[int], Any]
    ) -> None:
        if address is None:
            return
        port = self._target.address[1]
        downloader = Downloader(
            greeting(port),
            f"127.0.0.1:{port}",
            self._destination,
            self._runtime.clock.seconds,
            lambda received: self._progress(title, received, self._destination.size),
        )
        endpoint = TCP4ClientEndpoint(self._runtime.reactor, address[0], address[1])
        await connectProtocol(endpoint, downloader)
        done = downloader.done
        done.addTimeout(PATIENCE + self._destination.size / 1e6, self._runtime.clock)
        measured: Measured = await done
        self._say(
            f"  {title:<14}{measured.size / 1e6:.0f} MB intact, "
            f"first byte after {measured.first_byte * 1000:.1f} ms, "
            f"{measured.megabits:,.0f} Mbit/s"
        )

    def _tell_what_to_try(self) -> None:
        socks5, http = self._client.socks5_address, self._client.http_address
        target = f"http://127.0.0.1:{self._target.address[1]}/"
        self._say("\nBoth proxies are open. In another terminal, try:\n")
        if socks5 is not None:
            self._say(f"  curl --socks5-hostname {socks5[0]}:{socks5[1]} https://example.com/")
        if http is not None:
            self._say(f"  curl --proxy http://{http[0]}:{http[1]} https://example.com/")
        if socks5 is not None:
            self._say(
                f"  curl --socks5-hostname {socks5[0]}:{socks5[1]} {target} -o /dev/null"
                "   # works offline"
            )
        self._say("\nCtrl-C ends the demo.")

    def stop(self) -> Deferred[None]:
        """Stop everything."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for service in (self._client, self._server, self._target):
            if service.running:
                await service.stopService()


def key_text(key: PrivateKey) -> str:
    """Return a private key as the configuration writes it."""
    return base64.b64encode(key.raw).decode("ascii")


def write_private(path: Path, text: str) -> Path:
    """Write a file that only its owner can read."""
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    return path


def make_certificate(folder: Path, now: float) -> str:
    """Write a self-signed certificate and its key; return the pin, base64.

    Args:
        folder: Where ``cert.pem`` and ``key.pem`` go.
        now: Seconds since the Unix epoch.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - datetime.timedelta(days=1))
        .not_valid_after(moment + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
    (folder / "cert.pem").write_text(pem, encoding="ascii")
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode("ascii")
    write_private(folder / "key.pem", private)
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return base64.b64encode(hashlib.sha256(spki).digest()).decode("ascii")
