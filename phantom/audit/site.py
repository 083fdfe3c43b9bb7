"""A small HTTPS site with certificates and pages of ordinary sizes, on this machine.

What a censor tells from the sizes of an inner handshake depends on real certificate chains:
the site has several names, each with a chain as long as the public ones are.
"""

from __future__ import annotations

import datetime
import os
import random
import socket
import ssl
import struct
import threading
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID, ObjectIdentifier

#: Names, and bytes that stand for the signed certificate timestamps and policies of a public
#: certificate; with two intermediates, flights of some 3 to 5.5 KB result.
NAMES = {"www.site.test": 250, "cdn.site.test": 600, "img.site.test": 1200, "api.site.test": 1700}

#: Seconds each answer takes in an audit, as one a thousand kilometres behind the server.
DELAY = 0.03
#: What a page of the site has in its head.
TITLE = "<title>page</title>"
#: RFC 6962's list of timestamps.
_TIMESTAMPS = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")

#: Bytes of one write of a resource.
_CHUNK = 16384
#: Requests for more than this are none of ours.
_MOST = 8 << 20


def _certificate(
    name: str,
    public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    issuer: tuple[str, rsa.RSAPrivateKey],
    padding: int,
    *,
    authority: bool,
) -> bytes:
    now = datetime.datetime.now(datetime.UTC)

    def named(common: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Some Trust Services"),
                x509.NameAttribute(NameOID.COMMON_NAME, common),
            ]
        )

    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer[0]))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(_TIMESTAMPS, os.urandom(padding)), critical=False)
    )
    signed = builder.sign(issuer[1], hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def _context(
    folder: Path, name: str, padding: int, roots: list[rsa.RSAPrivateKey]
) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    root, middle = roots
    chain = _certificate(name, key.public_key(), ("Issuing CA 1", middle), padding, authority=False)
    for issued, public, issuer in (
        ("Issuing CA 1", middle.public_key(), ("Root R1", root)),
        ("Root R1", root.public_key(), ("Older Root", root)),
    ):
        chain += _certificate(issued, public, issuer, 200, authority=True)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / f"{name}.pem"
    path.touch(mode=0o600)
    path.write_bytes(private + chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _page(port: int, images: list[str]) -> bytes:
    """Return an answer: a page of images, each given as a name of the site and its bytes."""
    tags = []
    for place, image in enumerate(images):
        name, _, size = image.partition("/")
        tags.append(f'<img src="https://{name}:{port}/{size}?{place}">')
    # The text of a page, which no one reads.
    body = f"<!doctype html>{TITLE}{''.join(tags)}<!--{os.urandom(12000).hex()}-->".encode()
    return (
        b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Type: text/html; charset=utf-8\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )


def _picture(size: int) -> bytes:
    """Return the beginning of a bitmap of `size` bytes, of which the rest may be anything.

    A browser stops loading what it cannot take for a picture.  The layout is that of
    BITMAPFILEHEADER and BITMAPINFOHEADER, 54 bytes, with 64 pixels of 24 bits in a row.
    """
    rows = max(1, (size - 54) // 192)
    header = struct.pack("<2sIHHI", b"BM", size, 0, 0, 54)
    return (header + struct.pack("<IiiHHIIiiII", 40, 64, -rows, 1, 24, 0, 0, 0, 0, 0, 0))[:size]


class Site:
    """Serves pictures of N bytes at ``/N``, and pages of them at ``/page?NAME/N,NAME/N``.

    HTTP/1.1, keepalive.

    Args:
        folder: Where certificates and keys go.
        delay: Seconds before each answer, as a site that is far away takes.

    Attributes:
        port: Its port on 127.0.0.1.
    """

    def __init__(self, folder: Path, delay: float) -> None:
        self._delay = delay
        roots = [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in "ab"]
        contexts = {name: _context(folder, name, padding, roots) for name, padding in NAMES.items()}
        self._context = next(iter(contexts.values()))

        def choose(tls: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
            if name in contexts:
                tls.context = contexts[name]

        self._context.sni_callback = choose
        self._content = os.urandom(_CHUNK)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Accept no more."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        raw.settimeout(30)
        time.sleep(self._delay)  # the answer to the hello comes from as far away as any other
        try:
            with raw, self._context.wrap_socket(raw, server_side=True) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while self._answer(connection):
                    pass
        except (OSError, ValueError):
            return  # a visitor that leaves, or asks for something else

    def _answer(self, connection: ssl.SSLSocket) -> bool:
        head = b""
        while b"\r\n\r\n" not in head:
            received = connection.recv(16384)
            if not received or len(head) > 65536:
                return False
            head += received
        path, _, query = head.split(b" ", 2)[1].strip(b"/").partition(b"?")
        time.sleep(self._delay * random.uniform(0.8, 1.2))
        if path == b"page":
            connection.sendall(_page(self.port, query.decode("ascii").split(",")))
            return True
        size = min(_MOST, int(path) if path.isdigit() else 0)
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Type: image/bmp\r\n"
            b"Cache-Control: public, max-age=600\r\nContent-Length: %d\r\n\r\n" % size
        )
        picture = _picture(size)
        for offset in range(0, size, _CHUNK):
            piece = self._content[: size - offset]
            connection.sendall(piece if offset else picture + piece[len(picture) :])
        return True
