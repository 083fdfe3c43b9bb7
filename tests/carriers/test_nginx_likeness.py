"""The same probes to us and to a real nginx; every difference is something a prober can see."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

from phantom.carriers.decoy import BackendDecoy, FolderDecoy
from phantom.carriers.tls_openssl import ServerCertificates
from phantom.carriers.tls_server import TLSServerFactory
from phantom.relay import relay_pair

NGINX = shutil.which("nginx")
pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx to compare with")

#: Seconds without a byte after which a probe takes the connection for open.
PATIENCE = 0.4

CHROME = b"User-Agent: Mozilla/5.0 (KHTML, like Gecko) Chrome/152.0.0.0 Safari/537.36\r\n"
HOST = b"Host: x\r\n"

HTTP_PROBES = {
    "index": b"GET / HTTP/1.1\r\n" + HOST + b"\r\n",
    "missing": b"GET /nope HTTP/1.1\r\n" + HOST + b"\r\n",
    "missing for a browser": b"GET /nope HTTP/1.1\r\n" + HOST + CHROME + b"\r\n",
    "folder": b"GET /dir HTTP/1.1\r\n" + HOST + b"\r\n",
    "no listing": b"GET /dir/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "post and more": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Content-Length: 3\r\n\r\nabcGET /nope HTTP/1.0\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "old": b"GET / HTTP/1.0\r\n\r\n",
    "oldest": b"GET /\r\n",
    "newest": b"GET / HTTP/3.0\r\n\r\n",
    "preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "connect": b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    "trace": b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n",
    "put": b"PUT /x HTTP/1.1\r\n" + HOST + b"\r\n",
    "head": b"HEAD /big HTTP/1.1\r\n" + HOST + b"\r\n",
    "large": b"GET /big HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n",
    "range": b"GET / HTTP/1.1\r\n" + HOST + b"Range: bytes=2-4\r\n\r\n",
    "bad range": b"GET / HTTP/1.1\r\n" + HOST + b"Range: bytes=900-\r\n\r\n",
    "climb": b"GET /../etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n",
    "escape": b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n",
    "zero": b"GET /%00 HTTP/1.1\r\n" + HOST + b"\r\n",
    "both lengths": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    "too much": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 30000000\r\n\r\nabc",
    "coding": b"GET / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n",
    "partial": b"GET / HT",
    "blank": b"\r\n\r\n",
    "lower case": b"get",
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "socks": b"\x05\x01\x00",
    "long line": b"GET /" + b"x" * 9000,
    "long header": b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"x" * 40000 + b"\r\n\r\n",
    "junk": b"a" * 20000,
}

RAW_TLS_PROBES = {
    "nothing": b"",
    "high byte": b"\x80",
    "high bytes": b"\x80aaaa",
    "header only": b"\x16\x03\x01",
    "bad length": b"\x16\x03\x01\xff\xff" + bytes(40),
    "no hello": b"\x16\x03\x01\x00\x05hello",
    "bad version": b"\x16\x07\x07\x00\x05hello",
    "SSL 2.0": bytes.fromhex("8012 01 0303 0003 0000 0006 00c02b 414141414141"),
    "SSL 2.0, half": bytes.fromhex("8012 01 0303 0003 0000 0006"),
    "SSL 2.0, older": bytes.fromhex("8012 01 0002 0003 0000 0006 00c02b 414141414141"),
    "SSL 2.0, short": bytes.fromhex("8003 01 0200 01fc 0303"),
    "SSL 2.0, long": bytes.fromhex("ff03 01 0200 01fc 0303"),
    "16 KB": b"\xff" * 16000,
    "more than it reads": b"\xff" * 17410,
    "data, more than it reads": b"\x17\x03\x03\x00\x05" + b"\xff" * 17405,
    "odd type, more than it reads": b"\x41\x03\x03\x00\x05" + b"\xff" * 17405,
    "odd type": b"\x41\x03\x03\x00\x05" + b"\xff" * 400,
    "long data, more than it reads": b"\x17\x03\x03\x40\x00" + b"\xff" * 17405,
    "too long, more than it reads": b"\x16\x03\x03\x4f\x00" + b"\xff" * 17405,
    "no hello, more than it reads": b"\x16\x03\x01\x00\x05hello" + b"\xff" * 17400,
    "half a hello, more than it reads": b"\x16\x03\x01\x40\x00\x01\x01\x00\x00" + b"\xff" * 17401,
    "plain": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "plain, no host": b"GET / HTTP/1.1\r\n\r\n",
    "plain, oldest": b"GET /\r\n",
    "plain head": b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
    "plain garbage": b"\x00\x01\x02",
    "plain, partial": b"GET / HTTP/1.1\r\nHo",
}


class Visitor(Protocol):
    """Hands everyone to a policy, at the first byte."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy

    def dataReceived(self, data: bytes) -> None:
        self._policy(self.transport, data)


class Visitors(Factory):
    noisy = False

    def __init__(self, policy: Any) -> None:
        self._policy = policy

    def buildProtocol(self, addr: Any) -> Visitor:
        return Visitor(self._policy)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("site")
    root.chmod(0o755)
    (root / "index.html").write_text("<html>hello</html>\n")
    (root / "big").write_bytes(b"0123456789" * 30000)
    (root / "dir").mkdir()
    return root


@pytest.fixture(scope="module")
def nginx(
    folder: Path, certificate: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, int, int]]:
    """A real one: its ports for HTTP, for HTTPS, and for a backend that is down."""
    work = tmp_path_factory.mktemp("nginx")
    plain, tls, down = ports = tuple(_free_ports(3))
    paths = "".join(
        f"{kind}_temp_path {work}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    common = f"root {folder};"
    (work / "nginx.conf").write_text(f"""
        daemon off; master_process off; pid {work}/pid; error_log {work}/error.log;
        events {{}}
        http {{
          access_log off; include /etc/nginx/mime.types; {paths}
          default_type application/octet-stream;
          ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;
          server {{ listen 127.0.0.1:{plain}; {common} }}
          server {{ listen 127.0.0.1:{tls} ssl; {common}
                    ssl_certificate {certificate[0]}; ssl_certificate_key {certificate[1]}; }}
          server {{ listen 127.0.0.1:{down}; location / {{ proxy_pass http://127.0.0.1:1; }} }}
        }}""")
    assert NGINX is not None
    process = subprocess.Popen([NGINX, "-c", str(work / "nginx.conf")], stderr=subprocess.DEVNULL)
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", plain), timeout=1).close()
            break
        except OSError:
            time.sleep(0.05)
    else:
        process.kill()
        pytest.skip("nginx did not start")
    yield ports  # type: ignore[misc]
    process.terminate()
    process.wait(10)


@pytest.fixture
def listen(reactor: Any) -> Iterator[Callable[[Any], int]]:
    ports: list[Any] = []

    def start(factory: Any) -> int:
        ports.append(reactor.listenTCP(0, factory, interface="127.0.0.1"))
        port: int = ports[-1].getHost().port
        return port

    yield start
    for port in ports:
        port.stopListening()


def _tls(raw: socket.socket, name: str, alpn: list[str]) -> socket.socket:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(alpn)
    return context.wrap_socket(raw, server_hostname=name or None)


def _probe(
    port: int,
    data: bytes,
    wrap: Callable[[socket.socket], socket.socket] | None = None,
    half_close: bool = False,
    patience: float = PATIENCE,
) -> tuple[str, bytes]:
    """Return how it ended and what came back, without what may differ."""
    received = b""
    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
    try:
        if wrap is not None:
            connection = wrap(connection)
        connection.settimeout(patience)
        connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65536):
            received += piece
        end = "FIN"
    except TimeoutError:
        end = "OPEN"
    except ConnectionResetError:
        end = "RST"
    except ssl.SSLError as error:
        end = f"TLS {error.reason}"
    finally:
        connection.close()
    received = re.sub(rb"Date: [^\r]*", b"Date", received)
    received = re.sub(rb"nginx/[0-9.]+", b"nginx/V", received)
    received = re.sub(
        rb"Content-Length: (15|16|17|18|19|23|25|55|56)\d\r", b"Content-Length\r", received
    )
    return end, received.replace(b":%d/" % port, b":PORT/")


async def _compare(ours: int, theirs: int, probes: dict[str, bytes], **how: Any) -> None:
    different = probes
    # What differs is asked again with more patience: the machine may just have been busy.
    for patience in (PATIENCE, 10 * PATIENCE):
        jobs = [
            deferToThread(_probe, port, data, patience=patience, **how)
            for data in different.values()
            for port in (ours, theirs)
        ]
        results = await gatherResults(jobs)
        mine = dict(zip(different, results[::2], strict=True))
        real = dict(zip(different, results[1::2], strict=True))
        different = {name: probes[name] for name in real if mine[name] != real[name]}
        if not different:
            return
    assert mine == real


async def test_folder(nginx: Any, folder: Path, live_runtime: Any, listen: Any) -> None:
    ours = listen(Visitors(_plain_folder(live_runtime, folder)))
    await _compare(ours, nginx[0], HTTP_PROBES)


def _plain_folder(runtime: Any, folder: Path) -> Any:
    from phantom.carriers.nginx_site import SiteDecoy
    from phantom.carriers.static_site import FolderSite

    return SiteDecoy(runtime, FolderSite(str(folder)), https=False)


async def test_folder_inside_tls(
    nginx: Any, folder: Path, live_runtime: Any, listen: Any, certificate: Any
) -> None:
    certificates = ServerCertificates(certificate[0], certificate[1])
    policy = FolderDecoy(live_runtime, str(folder))
    ours = listen(TLSServerFactory(live_runtime, certificates, Visitors(policy)))
    for name, alpn in (
        ("server.test", ["http/1.1"]),
        ("", []),
        ("stranger.test", ["h2", "http/1.1"]),
    ):
        some = dict(list(HTTP_PROBES.items())[:12])
        await _compare(ours, nginx[1], some, wrap=lambda raw, n=name, a=alpn: _tls(raw, n, a))
    await _compare(
        ours, nginx[1], {"unknown protocol": b""}, wrap=lambda raw: _tls(raw, "x.test", ["foo/9"])
    )


async def test_not_quite_tls(
    nginx: Any, folder: Path, live_runtime: Any, listen: Any, certificate: Any
) -> None:
    certificates = ServerCertificates(certificate[0], certificate[1])
    policy = FolderDecoy(live_runtime, str(folder))
    ours = listen(TLSServerFactory(live_runtime, certificates, Visitors(policy)))
    await _compare(ours, nginx[1], RAW_TLS_PROBES)
    for part in ("nothing", "high byte", "header only", "plain, partial"):
        await _compare(ours, nginx[1], {part: RAW_TLS_PROBES[part]}, half_close=True)


async def test_records_of_a_handshake(
    nginx: Any, folder: Path, live_runtime: Any, listen: Any, certificate: Any
) -> None:
    certificates = ServerCertificates(certificate[0], certificate[1])
    policy = FolderDecoy(live_runtime, str(folder))
    ours = listen(TLSServerFactory(live_runtime, certificates, Visitors(policy)))

    def handshake(port: int, curve: str) -> tuple[list[int], list[int]]:
        """Return the sizes of records: before the client's Finished, and what comes unasked."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ecdh_curve(curve)
        tls = context.wrap_bio(incoming, outgoing, server_hostname="server.test")
        flight = b""
        with socket.create_connection(("127.0.0.1", port), timeout=5) as raw:
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    raw.sendall(outgoing.read())
                    data = raw.recv(65536)
                    flight += data
                    incoming.write(data)
            raw.sendall(outgoing.read())
            time.sleep(PATIENCE)
            sizes = _record_sizes(flight)
            del sizes[4]  # CertificateVerify: an ECDSA signature has 70 to 72 bytes
            return sizes, _record_sizes(raw.recv(65536))

    for curve in ("X25519", "prime256v1", "secp521r1"):
        mine, theirs = await gatherResults(
            [deferToThread(handshake, port, curve) for port in (ours, nginx[1])]
        )
        assert mine == theirs and len(mine[1]) == 2, curve


def _record_sizes(data: bytes) -> list[int]:
    sizes = []
    while data:
        sizes.append(int.from_bytes(data[3:5], "big"))
        data = data[5 + sizes[-1] :]
    return sizes


async def test_backend(nginx: Any, live_runtime: Any, listen: Any) -> None:
    ours = listen(Visitors(BackendDecoy(live_runtime, "127.0.0.1", nginx[0], relay_pair)))
    probes = dict(HTTP_PROBES)
    for name in ("folder",):  # a redirect names the port that was asked
        del probes[name]
    await _compare(ours, nginx[0], probes)


async def test_backend_that_is_down(nginx: Any, live_runtime: Any, listen: Any) -> None:
    ours = listen(Visitors(BackendDecoy(live_runtime, "127.0.0.1", 1, relay_pair)))
    some = {name: HTTP_PROBES[name] for name in ("index", "old", "missing for a browser", "climb")}
    await _compare(ours, nginx[2], some)
