"""What the two handshake messages carry, and the numbers both sides must agree on.

A payload is a version byte and a list of fields, each ``type (1) | length (2, big endian)
| value``.  Both messages use the same structure; which fields make sense in which is the
business of the tunnel.  The payload travels inside a Noise message and is encrypted, so
its padding may be zeros.
"""

from __future__ import annotations

import enum
import struct

import attrs

from phantom.errors import LocalProtocolError, RemoteProtocolError

#: The only version of the payload so far.
VERSION = 1
#: Bytes of an X25519 key, public or private, and of an ephemeral key on the wire.
KEY_SIZE = 32
#: Bytes of a Poly1305 or GCM tag.
TAG_SIZE = 16
#: Bytes of the sealed header: a length (2), a cipher (1) and a tag.
SEALED_HEADER_SIZE = 3 + TAG_SIZE
#: What follows the ephemeral key in a message may be no longer: room for an ML-KEM-768 key
#: and generous padding, little enough to hold for every unauthenticated visitor.
MAX_REST = 16384
#: Shortest rest of message 1: an encrypted static key (48) and an empty payload's tag.
MIN_REST_ONE = KEY_SIZE + 2 * TAG_SIZE
#: Shortest rest of message 2: an empty payload's tag.
MIN_REST_TWO = TAG_SIZE
#: Longest payload that fits either message.
MAX_HANDSHAKE_PAYLOAD = MAX_REST - MIN_REST_ONE
#: Bytes of a one-time enrolment token: 256 random bits cannot be guessed.
TOKEN_SIZE = 32
#: Bytes of an ML-KEM-768 encapsulation key (FIPS 203, table 3).
ENCAPSULATION_KEY_SIZE = 1184
#: Bytes of an ML-KEM-768 ciphertext (FIPS 203, table 3).
KEM_CIPHERTEXT_SIZE = 1088
#: Bytes that name a server's process: random, so that no two are alike.
INSTANCE_SIZE = 16
#: Bytes that name a secret both sides hold: derived, as good as random.
SECRET_NAME_SIZE = 16


class Cipher(enum.IntEnum):
    """The AEAD of a link; the number is the wire code in the sealed header."""

    AESGCM = 1
    CHACHAPOLY = 2


class PostQuantum(enum.Enum):
    """Whether a link's keys also rest on ML-KEM-768; the value is the setting's."""

    #: Where the peer does it too.
    AUTO = "auto"
    #: Or there is no link.
    REQUIRE = "require"
    OFF = "off"


class Mode(enum.IntEnum):
    """What stands around the handshake; the number is bound into the prologue.

    A message 1 cannot be carried over from one mode to the other.
    """

    #: Bare TCP: ephemeral keys in Elligator2 form.
    BARE = 0
    #: Inside TLS, dressed as an HTTP/1.1 exchange: plain X25519 ephemeral keys.
    TLS_HTTP1 = 1
    #: The same, dressed as an HTTP/2 exchange.
    TLS_H2 = 2


class Feature(enum.IntFlag):
    """Bits of `HandshakePayload.features`; a receiver ignores those it does not know."""

    #: In message 1: links die young here, so nothing should be added to this one's bytes.
    LEAN = 1


class Field(enum.IntEnum):
    """Types of a payload's fields.

    A receiver ignores a type it does not know below 0x80 and refuses one from 0x80.
    """

    PADDING = 0x00
    TIMESTAMP = 0x01
    FEATURES = 0x02
    TOKEN = 0x03
    ENCAPSULATION_KEY = 0x04
    KEM_CIPHERTEXT = 0x05
    #: Reserved: message 1 can be replayed to another server or be sent twice by a race, so
    #: version 1 carries no early data; the field must be empty where it appears.
    EARLY_DATA = 0x06
    #: In message 2: names the running process of the server, so that a client knows whether
    #: a session the server does not know was lost with a restart or never reached it.
    INSTANCE = 0x07
    #: Names a secret that an earlier link left behind, to be mixed into this one's keys in
    #: place of a new ML-KEM exchange; in message 2 the same name says that the server has it.
    KNOWN_SECRET = 0x08


#: From here on a type must be understood (one bit, so that old receivers can tell).
_CRITICAL = 0x80

_FIELD = struct.Struct(">BH")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")

_SIZES: dict[int, int] = {
    Field.TIMESTAMP: _U64.size,
    Field.FEATURES: _U32.size,
    Field.TOKEN: TOKEN_SIZE,
    Field.ENCAPSULATION_KEY: ENCAPSULATION_KEY_SIZE,
    Field.KEM_CIPHERTEXT: KEM_CIPHERTEXT_SIZE,
    Field.EARLY_DATA: 0,
    Field.INSTANCE: INSTANCE_SIZE,
    Field.KNOWN_SECRET: SECRET_NAME_SIZE,
}


@attrs.frozen(slots=True, kw_only=True)
class HandshakePayload:
    """The content of a handshake message.

    Attributes:
        timestamp: The sender's clock, in milliseconds since the Unix epoch.
        features: A set of `Feature`, 32 bits; an absent field is 0.
        token: A one-time enrolment token.
        encapsulation_key: An ML-KEM-768 encapsulation key (message 1).
        kem_ciphertext: An ML-KEM-768 ciphertext (message 2).
        instance: Names the server's process (message 2).
        known_secret: Names a secret of an earlier link.
    """

    timestamp: int | None = None
    features: int = 0
    token: bytes | None = attrs.field(default=None, repr=False)
    encapsulation_key: bytes | None = attrs.field(default=None, repr=False)
    kem_ciphertext: bytes | None = attrs.field(default=None, repr=False)
    instance: bytes | None = None
    known_secret: bytes | None = attrs.field(default=None, repr=False)

    def encode(self, padding: int = 0) -> bytes:
        """Return the wire form.

        Args:
            padding: Bytes of padding to add; its field costs three more.

        Raises:
            LocalProtocolError: A value does not fit its field, or the whole no message.
        """
        fields: list[tuple[Field, bytes]] = []
        try:
            if self.timestamp is not None:
                fields.append((Field.TIMESTAMP, _U64.pack(self.timestamp)))
            if self.features:
                fields.append((Field.FEATURES, _U32.pack(self.features)))
        except struct.error:
            raise LocalProtocolError("a number does not fit its field") from None
        for kind, value in (
            (Field.TOKEN, self.token),
            (Field.ENCAPSULATION_KEY, self.encapsulation_key),
            (Field.KEM_CIPHERTEXT, self.kem_ciphertext),
            (Field.INSTANCE, self.instance),
            (Field.KNOWN_SECRET, self.known_secret),
        ):
            if value is not None:
                if len(value) != _SIZES[kind]:
                    raise LocalProtocolError(f"{kind.name} takes {_SIZES[kind]} bytes")
                fields.append((kind, value))
        if padding:
            if not 0 < padding <= MAX_HANDSHAKE_PAYLOAD:
                raise LocalProtocolError("padding too long for a handshake message")
            fields.append((Field.PADDING, bytes(padding)))
        out = bytearray((VERSION,))
        for kind, value in fields:
            out += _FIELD.pack(kind, len(value))
            out += value
        if len(out) > MAX_HANDSHAKE_PAYLOAD:
            raise LocalProtocolError("a handshake payload too long for its message")
        return bytes(out)

    @classmethod
    def decode(cls, data: bytes) -> HandshakePayload:
        """Parse the wire form.

        Raises:
            RemoteProtocolError: An unknown version, a field cut short, twice there or of
                the wrong size, an unknown field that must be understood, or early data.
        """
        if not data or data[0] != VERSION:
            raise RemoteProtocolError("a handshake payload of an unknown version")
        found: dict[int, bytes] = {}
        position = 1
        while position < len(data):
            if len(data) - position < _FIELD.size:
                raise RemoteProtocolError("a handshake field cut short")
            kind, size = _FIELD.unpack_from(data, position)
            position += _FIELD.size
            if len(data) - position < size:
                raise RemoteProtocolError("a handshake field cut short")
            if kind in found:
                raise RemoteProtocolError("a handshake field twice")
            if kind >= _CRITICAL:
                raise RemoteProtocolError("an unknown handshake field that must be understood")
            if _SIZES.get(kind, size) != size:
                raise RemoteProtocolError("a handshake field of the wrong size")
            found[kind] = bytes(data[position : position + size])
            position += size
        stamp = found.get(Field.TIMESTAMP)
        features = found.get(Field.FEATURES)
        return cls(
            timestamp=None if stamp is None else _U64.unpack(stamp)[0],
            features=0 if features is None else _U32.unpack(features)[0],
            token=found.get(Field.TOKEN),
            encapsulation_key=found.get(Field.ENCAPSULATION_KEY),
            kem_ciphertext=found.get(Field.KEM_CIPHERTEXT),
            instance=found.get(Field.INSTANCE),
            known_secret=found.get(Field.KNOWN_SECRET),
        )
