"""Knocks at a server as censors and researchers do, and writes down how it reacts.

Blocking, for threads; everything goes to the address that is given.
"""

from __future__ import annotations

import hashlib
import random
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from phantom.audit import tls
from phantom.audit.detectors.probing import Reaction

#: Probes under way at once: waiting for silence takes no processor.
AT_ONCE = 12
#: Bytes of an answer that are read.
_MOST = 1 << 20
#: Lengths that the GFW sends, each one byte less and more as well (IMC 2020), and others at
#: which known proxies close (NDSS 2020).
_GFW_LENGTHS = [size + off for size in (8, 12, 16, 22, 33, 41, 49) for off in (-1, 0, 1)]
_LENGTHS = [*_GFW_LENGTHS, 1, 23, 24, 25, 51, 221, 256, 257, 517, 1000, 2000, 4096, 8192, 17410]

_H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_H2_SETTINGS = bytes.fromhex("000000040000000000")

Wrap = Callable[[socket.socket], socket.socket]


class Probe(NamedTuple):
    """Something to say.

    Attributes:
        name: What it is called in reports.
        payload: The bytes.
        wrap: Makes TLS of the connection first, None for none.
    """

    name: str
    payload: bytes
    wrap: Wrap | None = None


def shape(data: bytes) -> str:
    """Return the kind of an answer: TLS records, HTTP status and headers, or a digest."""
    if not data:
        return ""
    if data[0] == tls.ALERT and data[1:2] == b"\x03" and len(data) == 7:
        return f"alert {data[5]} {data[6]}"
    if data[:1] in b"\x14\x15\x16\x17" and data[1:2] == b"\x03":
        return "tls " + " ".join(f"{r.kind}:{r.size}" for r in tls.records(data)[:12])
    if data[:5] == b"HTTP/":
        head, _, body = data.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        names = [
            line if line.lower().startswith("server:") else line.split(":")[0] for line in lines
        ]
        return f"{status} ({', '.join(names)}) body {_digest(body)}"
    return f"bytes {_digest(data)}"


def _digest(data: bytes) -> str:
    return f"{len(data)}:{hashlib.sha256(data).hexdigest()[:8]}" if data else "0"


def react(port: int, probe: Probe, patience: float, *, whole: bool = True) -> Reaction:
    """Say one thing and watch what happens.

    Args:
        port: The server's, on 127.0.0.1.
        probe: What to say.
        patience: Seconds of silence after which the connection counts as open.
        whole: Whether all of the answer is wanted, or only when its first byte comes.
    """
    began = time.monotonic()
    data = b""
    first: float | None = None
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=patience) as raw:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = probe.wrap(raw) if probe.wrap else raw
            with connection:
                began = time.monotonic()
                connection.sendall(probe.payload)
                close = "fin"
                while len(data) < _MOST:
                    connection.settimeout(patience)
                    received = connection.recv(65536)
                    if not received:
                        break
                    first = first or time.monotonic()
                    data += received
                    if not whole:
                        break
    except TimeoutError:
        close = "open"
    except ssl.SSLError as error:
        close = f"TLS {error.reason or 'error'}"
    except (ConnectionResetError, BrokenPipeError):
        close = "reset"
    except OSError:
        close = "refused"
    seconds = (first or time.monotonic()) - began
    return Reaction(close=close, seconds=seconds, size=len(data), shape=shape(data))


def run(
    port: int,
    probes: Sequence[Probe],
    *,
    patience: float,
    repeat: int = 1,
    at_once: int = AT_ONCE,
    whole: bool = True,
) -> dict[str, list[Reaction]]:
    """Send probes and return the reactions by the probe's name.

    Args:
        port: The server's, on 127.0.0.1.
        probes: What to say.
        patience: See `react`.
        repeat: How often each is said.
        at_once: How many at a time; 1 where times matter.
        whole: See `react`.
    """
    found: dict[str, list[Reaction]] = {probe.name: [] for probe in probes}
    with ThreadPoolExecutor(at_once) as pool:
        for _ in range(repeat):
            answers = pool.map(lambda probe: react(port, probe, patience, whole=whole), probes)
            for probe, answer in zip(probes, answers, strict=True):
                found[probe.name].append(answer)
    return found


def _changed(data: bytes, places: Iterable[int], chance: random.Random) -> bytes:
    changed = bytearray(data)
    for place in places:
        if place < len(changed):
            changed[place] ^= chance.randrange(1, 256)
    return bytes(changed)


def replays(recorded: bytes, chance: random.Random) -> list[Probe]:
    """Return a recorded first flight, as it was and changed as the GFW changes it (IMC 2020).

    Besides: a flipped last byte, half of it, one byte less, more after it, and the two unused
    bits of an Elligator2 representative, wherever a prefix puts it.
    """
    found = [
        Probe("R1 identical", recorded),
        Probe("R2 byte 0", _changed(recorded, [0], chance)),
        Probe("R3 bytes 0-7 and 62-63", _changed(recorded, [*range(8), 62, 63], chance)),
        Probe("R4 byte 16", _changed(recorded, [16], chance)),
        Probe("R5 bytes 6 and 16", _changed(recorded, [6, 16], chance)),
        Probe("last byte", _changed(recorded, [len(recorded) - 1], chance)),
        Probe("half", recorded[: len(recorded) // 2]),
        Probe("one byte less", recorded[:-1]),
        Probe("and more", recorded + chance.randbytes(32)),
    ]
    start = next((i for i, byte in enumerate(recorded) if not 0x20 <= byte < 0x7F), 0)
    key = start + 1 if start else 0
    if key + 31 < len(recorded):
        flipped = bytearray(recorded)
        flipped[key + 31] ^= 0xC0
        found.append(Probe("unused key bits", bytes(flipped)))
    return found


def fresh_hello(hello: bytes, chance: random.Random) -> bytes:
    """Return a ClientHello with another random (RFC 8446, section 4.1.2): nobody has seen it."""
    return hello[:11] + chance.randbytes(32) + hello[43:]


def raw_probes(host: str, chance: random.Random, hello: bytes = b"") -> list[Probe]:
    """Return what is said to the bare port.

    Args:
        host: The name for requests.
        chance: Makes the random ones, so that two servers can be sent the same.
        hello: A ClientHello, for those that begin like it.
    """
    get = f"GET / HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n\r\n".encode()
    found = [
        Probe("nothing", b""),
        Probe("HTTP GET", get),
        Probe("HTTP nonsense", b"FOO / BAR\r\n\r\n"),
        Probe("HTTP half", get[:20]),
        Probe("STUN", bytes.fromhex("000100002112a442") + b"0123456789ab"),
        Probe("S7", bytes.fromhex("0300001611e00000000100c0010ac1020100c2020102")),
        Probe("Modbus", bytes.fromhex("000000000005002b0e0100")),
        Probe("DNS", bytes.fromhex("001d1234010000010000000000000765786d706c65036e65740000fc0001")),
        Probe("two lines", b"\r\n\r\n"),
        Probe("100 zeros", bytes(100)),
        Probe("SSH", b"SSH-2.0-OpenSSH_9.2\r\n"),
        Probe("SOCKS5", b"\x05\x01\x00"),
        Probe("TLS record head", b"\x16\x03\x01"),
        Probe("TLS bad length", b"\x16\x03\x01\xff\xff" + chance.randbytes(40)),
        Probe("TLS alert", bytes.fromhex("15030100020100")),
        Probe("text and noise", b"hello, world " + chance.randbytes(300)),
    ]
    found += [Probe(f"{size} random bytes", chance.randbytes(size)) for size in _LENGTHS]
    if hello:
        found += [
            Probe("hello", hello),
            Probe("half a hello", hello[: len(hello) // 2]),
            Probe("hello less a byte", hello[:-1]),
            Probe("hello changed", _changed(hello, [9, 10], chance)),
            Probe("hello and noise", hello + chance.randbytes(64)),
            Probe("hello, bad version", hello[:1] + b"\x07\x07" + hello[3:]),
            *(
                Probe(f"hello, byte 0 is 0x{byte:02x}", bytes([byte]) + hello[1:])
                for byte in (0x00, 0x15, 0x17, 0x47, 0x80, 0xFF)
            ),
        ]
    return found


def client_context(alpn: Sequence[str] = (), *, version: int | None = None) -> ssl.SSLContext:
    """Return a TLS client that believes any certificate, as a prober does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if version is not None:
        context.minimum_version = context.maximum_version = ssl.TLSVersion(version)
    return context


def _wrap(
    name: str | None, alpn: Sequence[str] = ("http/1.1",), version: int | None = None
) -> Wrap:
    context = client_context(alpn, version=version)

    def wrap(raw: socket.socket) -> socket.socket:
        return context.wrap_socket(raw, server_hostname=name)

    return wrap


def tls_probes(host: str, chance: random.Random) -> list[Probe]:
    """Return what is said inside TLS; both arguments as for `raw_probes`."""
    http1, h2 = _wrap(host), _wrap(host, ("h2",))
    both = _wrap(host, ("h2", "http/1.1"))
    name = host.encode()
    get = b"GET / HTTP/1.1\r\nHost: " + name + b"\r\n\r\n"
    token = b"%032x" % chance.getrandbits(128)
    upgrade = (
        b"GET / HTTP/1.1\r\nHost: " + name + b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    post = b"POST /%s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n"
    trojan = hashlib.sha224(token).hexdigest().encode() + b"\r\n\x01\x03\x0bexample.com\x01\xbb\r\n"
    missing = b"GET /%s HTTP/1.1\r\nHost: %s\r\n\r\n" % (token, name)
    return [
        Probe("in TLS: GET", get, http1),
        Probe("in TLS: 404", missing, http1),
        Probe("in TLS: GET without ALPN", get, _wrap(host, ())),
        Probe("in TLS: HTTP/1.0", b"GET / HTTP/1.0\r\n\r\n", http1),
        Probe("in TLS: no request", b"\x00\x01\x02 garbage\r\n\r\n", http1),
        Probe("in TLS: 32 random bytes", chance.randbytes(32), http1),
        Probe("in TLS: 512 random bytes", chance.randbytes(512), http1),
        Probe("in TLS: 5000 random bytes", chance.randbytes(5000), http1),
        Probe("in TLS: byte 0x80", b"\x80", http1),
        Probe("in TLS: random bytes, h2", chance.randbytes(100), both),
        Probe("in TLS: h2 preface", _H2_PREFACE + _H2_SETTINGS, h2),
        Probe("in TLS: h2 bad frame", _H2_PREFACE + _H2_SETTINGS + b"\xff" * 9, h2),
        Probe(
            "in TLS: CONNECT", b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n", http1
        ),
        Probe("in TLS: WebSocket", upgrade, http1),
        Probe("in TLS: like trojan", trojan, _wrap(host, ())),
        Probe("in TLS: nothing", b"", both),
        Probe("in TLS: half a request", b"GET / HT", http1),
        Probe("in TLS: POST", post % (token, name, 400) + chance.randbytes(400), http1),
        Probe("in TLS: half a POST", post % (token, name, 400) + chance.randbytes(200), http1),
        Probe("unknown ALPN", get, _wrap(host, ("foo/9",))),
        Probe("no server name", get, _wrap(None)),
        Probe("wrong server name", get, _wrap("www.example.org")),
        Probe("TLS 1.2", get, _wrap(host, version=ssl.TLSVersion.TLSv1_2)),
        Probe("TLS 1.3", get, _wrap(host, version=ssl.TLSVersion.TLSv1_3)),
    ]


def agrees_to_h2(port: int, host: str) -> bool:
    """Tell whether a server chooses HTTP/2 when it is offered.

    Args:
        port: The server's, on 127.0.0.1.
        host: The name to ask for.

    Raises:
        OSError: There was no handshake.
    """
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as raw,
        client_context(("h2", "http/1.1")).wrap_socket(raw, server_hostname=host) as connection,
    ):
        return connection.selected_alpn_protocol() == "h2"


def handshake(port: int, host: str, alpn: Sequence[str], wait: float) -> None:
    """Complete a TLS handshake and stay silent for a while.

    Args:
        port: The server's, on 127.0.0.1.
        host: The name to ask for.
        alpn: What to offer.
        wait: Seconds of silence.

    Raises:
        OSError: There was no handshake.
    """
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as raw,
        client_context(alpn).wrap_socket(raw, server_hostname=host),
    ):
        time.sleep(wait)
