"""TLS as it lies on the wire: records, and the fields of a ClientHello with its fingerprints.

Only what anyone on the path can read is parsed (RFC 8446, sections 4.1.2 and 5.1); the input
is whatever was captured, so it may be anything.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import attrs

from phantom.errors import RemoteProtocolError

HANDSHAKE = 22
CHANGE_CIPHER_SPEC = 20
ALERT = 21
APPLICATION_DATA = 23

#: Values that mean nothing and are drawn anew each time (RFC 8701).
GREASE = frozenset(0x0A0A + 0x1010 * i for i in range(16))

_VERSIONS = {0x0304: "13", 0x0303: "12", 0x0302: "11", 0x0301: "10", 0x0300: "s3"}

_SERVER_NAME = 0
_GROUPS = 10
_POINT_FORMATS = 11
_SIGNATURES = 13
_ALPN = 16
_COMPRESSION = 27
_PRE_SHARED_KEY = 41
_SUPPORTED_VERSIONS = 43
_PSK_MODES = 45
_KEY_SHARE = 51
#: Chromium's application settings, old and new code point (draft-vvv-tls-alps).
_ALPS = (17513, 17613)
#: draft-beck-tls-trust-anchor-ids, as Chromium numbers it.
_TRUST_ANCHORS = 0xCA34
_ECH = 65037


class Record(NamedTuple):
    """A TLS record's head.

    Attributes:
        kind: Its content type.
        version: The legacy version, as on the wire.
        size: Bytes of its body.
    """

    kind: int
    version: int
    size: int


def records(stream: bytes) -> list[Record]:
    """Return the records at the beginning of a stream, the last one perhaps cut off."""
    found = []
    offset = 0
    while offset + 5 <= len(stream):
        kind = stream[offset]
        version = int.from_bytes(stream[offset + 1 : offset + 3], "big")
        size = int.from_bytes(stream[offset + 3 : offset + 5], "big")
        if not 20 <= kind <= 24 or version >> 8 != 3:
            break
        found.append(Record(kind, version, size))
        offset += 5 + size
    return found


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def take(self, size: int) -> bytes:
        end = self._offset + size
        if end > len(self._data):
            raise RemoteProtocolError("a truncated ClientHello")
        taken = self._data[self._offset : end]
        self._offset = end
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, length_size: int) -> bytes:
        return self.take(self.number(length_size))

    @property
    def more(self) -> bool:
        return self._offset < len(self._data)


def _numbers(data: bytes) -> list[int]:
    return [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data) - 1, 2)]


def _strings(data: bytes) -> list[str]:
    reader = _Reader(data)
    found = []
    while reader.more:
        found.append(reader.vector(1).decode("latin-1"))
    return found


@attrs.frozen(slots=True, kw_only=True)
class ClientHello:
    """A ClientHello's fields, in wire order, GREASE included.

    Attributes:
        record_version: Of the record that carries it.
        version: The legacy version.
        session_id: Bytes of the legacy session id.
        ciphers: Cipher suites.
        extensions: Types and contents.
    """

    record_version: int
    version: int
    session_id: int
    ciphers: list[int]
    extensions: list[tuple[int, bytes]]

    def content(self, kind: int) -> bytes | None:
        """Return an extension's content, None without it."""
        return next((body for found, body in self.extensions if found == kind), None)

    def _list(self, kind: int, length_size: int) -> bytes:
        body = self.content(kind)
        return b"" if body is None else _Reader(body).vector(length_size)

    @property
    def server_name(self) -> bytes | None:
        """The first name asked for (RFC 6066, section 3)."""
        body = self.content(_SERVER_NAME)
        return body[5:] if body is not None and len(body) > 5 else None

    @property
    def groups(self) -> list[int]:
        """Key exchange groups."""
        return _numbers(self._list(_GROUPS, 2))

    @property
    def point_formats(self) -> list[int]:
        """Elliptic curve point formats."""
        return list(self._list(_POINT_FORMATS, 1))

    @property
    def signatures(self) -> list[int]:
        """Signature algorithms."""
        return _numbers(self._list(_SIGNATURES, 2))

    @property
    def versions(self) -> list[int]:
        """Supported versions."""
        return _numbers(self._list(_SUPPORTED_VERSIONS, 1))

    @property
    def alpn(self) -> list[str]:
        """Application protocols."""
        return _strings(self._list(_ALPN, 2))

    @property
    def key_shares(self) -> list[tuple[int, int]]:
        """Groups and bytes of the key shares."""
        reader = _Reader(self._list(_KEY_SHARE, 2))
        found = []
        while reader.more:
            found.append((reader.number(2), len(reader.vector(2))))
        return found


def parse_client_hello(stream: bytes) -> ClientHello:
    """Read the ClientHello that a stream begins with, over several records if need be.

    Raises:
        RemoteProtocolError: It begins otherwise, or too little of it was seen.
    """
    message = bytearray()
    version = 0
    offset = 0
    for record in records(stream):
        if record.kind != HANDSHAKE:
            break
        version = version or record.version
        message += stream[offset + 5 : offset + 5 + record.size]
        offset += 5 + record.size
        if len(message) >= 4 and len(message) >= 4 + int.from_bytes(message[1:4], "big"):
            break
    reader = _Reader(bytes(message))
    if reader.number(1) != 1:
        raise RemoteProtocolError("no ClientHello")
    body = _Reader(reader.vector(3))
    legacy = body.number(2)
    body.take(32)
    session_id = len(body.vector(1))
    ciphers = _numbers(body.vector(2))
    body.vector(1)
    extensions = []
    rest = _Reader(body.vector(2) if body.more else b"")
    while rest.more:
        kind = rest.number(2)
        extensions.append((kind, rest.vector(2)))
    hello = ClientHello(
        record_version=version,
        version=legacy,
        session_id=session_id,
        ciphers=ciphers,
        extensions=extensions,
    )
    facts(hello)  # whatever is malformed inside the extensions is found here
    return hello


def _plain(values: list[int]) -> list[int]:
    return [value for value in values if value not in GREASE]


def ja3(hello: ClientHello) -> str:
    """Return the JA3 fingerprint (Salesforce, 2017): MD5 over the fields in wire order."""
    fields = (
        _plain(hello.ciphers),
        _plain([kind for kind, _ in hello.extensions]),
        _plain(hello.groups),
        hello.point_formats,
    )
    text = ",".join([str(hello.version), *("-".join(map(str, field)) for field in fields)])
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _digest12(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text else "0" * 12


def ja4(hello: ClientHello) -> str:
    """Return the JA4 fingerprint (FoxIO, 2023) of a hello on TCP."""
    version = max(_plain(hello.versions), default=hello.version)
    ciphers = _plain(hello.ciphers)
    extensions = _plain([kind for kind, _ in hello.extensions])
    protocol = hello.alpn[0] if hello.alpn else ""
    if not protocol:
        ends = "00"
    elif protocol.isascii() and protocol[0].isalnum() and protocol[-1].isalnum():
        ends = protocol[0] + protocol[-1]
    else:
        spelled = protocol.encode("latin-1").hex()
        ends = spelled[0] + spelled[-1]
    head = (
        f"t{_VERSIONS.get(version, '00')}{'d' if hello.server_name else 'i'}"
        f"{min(99, len(ciphers)):02d}{min(99, len(extensions)):02d}{ends}"
    )
    listed = ",".join(
        sorted(f"{kind:04x}" for kind in extensions if kind not in (_SERVER_NAME, _ALPN))
    )
    signatures = ",".join(f"{value:04x}" for value in _plain(hello.signatures))
    return "_".join(
        (
            head,
            _digest12(",".join(sorted(f"{cipher:04x}" for cipher in ciphers))),
            _digest12(f"{listed}_{signatures}" if signatures else listed),
        )
    )


def _mark(values: list[int]) -> list[str]:
    return ["GREASE" if value in GREASE else f"{value:04x}" for value in values]


def facts(hello: ClientHello) -> dict[str, Any]:
    """Return what tells one implementation from another, GREASE made alike.

    The values are of JSON's kinds, so that those of a browser can be kept in a file.  The
    order of extensions is left out, as Chromium shuffles it.

    Raises:
        RemoteProtocolError: An extension is malformed.
    """
    kinds = [kind for kind, _ in hello.extensions]
    anchors = hello.content(_TRUST_ANCHORS)
    listed = _strings(_Reader(anchors).vector(2)) if anchors else []
    alps = [[kind, _strings(hello._list(kind, 2))] for kind in _ALPS if kind in kinds]
    ech = hello.content(_ECH)
    return {
        "alpn": hello.alpn,
        "application_settings": alps,
        "certificate_compression": _numbers(hello._list(_COMPRESSION, 1)),
        "ciphers": _mark(hello.ciphers),
        "ech_outer": None if ech is None else ech[:5].hex(),
        "extensions": sorted(_mark(kinds)),
        "grease_places": [
            place if place < len(kinds) / 2 else place - len(kinds)
            for place, kind in enumerate(kinds)
            if kind in GREASE
        ],
        "groups": _mark(hello.groups),
        "ja4": ja4(hello),
        "key_shares": [[name, size] for (_, size), name in _shares(hello)],
        "pre_shared_key_last": _PRE_SHARED_KEY not in kinds or kinds[-1] == _PRE_SHARED_KEY,
        "psk_modes": list(hello._list(_PSK_MODES, 1)),
        "record_version": hello.record_version,
        "session_id": hello.session_id,
        "signatures": _mark(hello.signatures),
        "trust_anchors": len(listed),
        "trust_anchors_sorted": listed == sorted(listed),
        "version": hello.version,
        "versions": _mark(hello.versions),
    }


def _shares(hello: ClientHello) -> list[tuple[tuple[int, int], str]]:
    shares = hello.key_shares
    return list(zip(shares, _mark([group for group, _ in shares]), strict=True))
