"""The records of TLS 1.3 (RFC 8446, section 5) under given traffic secrets.

A record is ``type (1) | version (2) | length (2) | sealed``, where what is sealed is ``content |
content type (1) | zeros``.  The header is authenticated with it, and the nonce is the record's
number, joined to a fixed one (section 5.3).
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterable
from typing import Final

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from phantom.errors import RemoteProtocolError

#: Content types (section 5.1).
CHANGE_CIPHER_SPEC: Final = 20
ALERT: Final = 21
HANDSHAKE: Final = 22
APPLICATION_DATA: Final = 23

#: Alerts (section 6).
UNEXPECTED_MESSAGE: Final = 10
BAD_RECORD_MAC: Final = 20
RECORD_OVERFLOW: Final = 22
PROTOCOL_VERSION: Final = 70

#: Most content of a record (section 5.1).
MOST_CONTENT: Final = 1 << 14
#: Bytes of a record's header.
HEADER_SIZE: Final = 5
#: What sealing adds to content: the header, a content type and a tag (16 bytes in each suite).
OVERHEAD: Final = HEADER_SIZE + 1 + 16
#: Most bytes that may follow a header (section 5.2).
MOST_SEALED: Final = MOST_CONTENT + 256
#: Least: a content type and a tag.
_LEAST_SEALED: Final = 1 + 16

#: What stands in every record for old middleboxes: TLS 1.2 (section 5.1).
_VERSION: Final = 0x0303
_HEADER = struct.Struct(">BHH")
#: The header of a record that is full.
_FULL_SEALED: Final = MOST_CONTENT + 17
_FULL_HEADER = _HEADER.pack(APPLICATION_DATA, _VERSION, _FULL_SEALED)

#: Each byte by itself: the end of a nonce, of which all else is the same for 256 records.
_BYTES = [bytes((value,)) for value in range(256)]

Buffer = bytes | bytearray | memoryview


@attrs.frozen(slots=True)
class Suite:
    """A cipher suite (section B.4).

    Attributes:
        aead: Makes what seals.
        key_size: Bytes of its key.
        hash: Of the key schedule.
    """

    aead: Callable[[bytes], AESGCM | ChaCha20Poly1305]
    key_size: int
    hash: Callable[[], SHA256 | SHA384]


#: By the names that OpenSSL and BoringSSL give them.
SUITES = {
    "TLS_AES_128_GCM_SHA256": Suite(AESGCM, 16, SHA256),
    "TLS_AES_256_GCM_SHA384": Suite(AESGCM, 32, SHA384),
    "TLS_CHACHA20_POLY1305_SHA256": Suite(ChaCha20Poly1305, 32, SHA256),
}


def expand_label(suite: Suite, secret: bytes, label: bytes, length: int) -> bytes:
    """Return HKDF-Expand-Label of `secret` with an empty context (section 7.1)."""
    label = b"tls13 " + label
    info = struct.pack(">HB", length, len(label)) + label + b"\x00"
    return HKDFExpand(suite.hash(), length, info).derive(secret)


@attrs.frozen(slots=True)
class Manners:
    """How a library deals with records that break TLS, which who tampers with them can see.

    Attributes:
        most_sealed: What a header may announce; more ends the connection at once.
        late: Whether a record of another type is read to its end before it ends the connection.
        changes: How many change_cipher_spec records it ignores in a row.
    """

    most_sealed: int = MOST_SEALED
    late: bool = False
    changes: int = 0


#: As found with OpenSSL 4.0 and BoringSSL, byte by byte (tests/carriers/test_tls_quick.py).
OPENSSL_SERVER = Manners()
OPENSSL_CLIENT = Manners(changes=32)
BORINGSSL = Manners(most_sealed=MOST_CONTENT + 320, late=True)


class _Direction:
    """The key and the counter of one direction.

    Args:
        suite: What the handshake agreed on.
        secret: The direction's application traffic secret.
    """

    __slots__ = ("_aead", "_counter", "_iv", "_last", "_secret", "_suite")

    def __init__(self, suite: Suite, secret: bytes) -> None:
        self._suite = suite
        self._use(secret)
        self._counter = 0  # the number of the next record

    def _use(self, secret: bytes) -> None:
        suite = self._suite
        self._secret = secret
        self._aead = suite.aead(expand_label(suite, secret, b"key", suite.key_size))
        self._iv = int.from_bytes(expand_label(suite, secret, b"iv", 12), "big")

        self._last = self._iv & 255

    def _beginning(self, counter: int) -> bytes:
        """Return all but the last byte of the nonces of a record and of those that share it."""
        return ((self._iv ^ counter) >> 8).to_bytes(11, "big")

    def update(self) -> None:
        """Go on with the next secret, from record 0 (section 7.2)."""
        suite = self._suite
        size = suite.hash().digest_size
        self._use(expand_label(suite, self._secret, b"traffic upd", size))
        self._counter = 0

    def find(self, record: Buffer, counters: Iterable[int]) -> bool:
        """Set the counter to that of `record`, a whole one, which is not taken.

        Args:
            record: Any of this direction's.
            counters: What it may be.

        Returns:
            Whether it was found; if not, the counter stays.
        """
        view = memoryview(record)
        header, sealed = bytes(view[:HEADER_SIZE]), bytes(view[HEADER_SIZE:])
        for counter in counters:
            nonce = (self._iv ^ counter).to_bytes(12, "big")
            with contextlib.suppress(InvalidTag):
                self._aead.decrypt(nonce, sealed, header)
                self._counter = counter
                return True
        return False

    def skip(self) -> None:
        """Leave a record out, which somebody else has dealt with."""
        self._counter += 1

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at record {self._counter}>"


class TLSSealer(_Direction):
    """Seals what this side sends."""

    __slots__ = ("_full",)

    def __init__(self, suite: Suite, secret: bytes) -> None:
        super().__init__(suite, secret)
        # A full record's plaintext has its type behind it.
        self._full = memoryview(bytearray(MOST_CONTENT + 1))
        self._full[MOST_CONTENT] = APPLICATION_DATA

    def seal(self, content_type: int, content: Buffer) -> bytes:
        """Return one record.

        Args:
            content_type: What it carries.
            content: At most `MOST_CONTENT` bytes.
        """
        header = _HEADER.pack(APPLICATION_DATA, _VERSION, len(content) + 17)
        nonce = (self._iv ^ self._counter).to_bytes(12, "big")
        self._counter += 1
        plaintext = bytes(content) + bytes((content_type,))
        return header + self._aead.encrypt(nonce, plaintext, header)

    def seal_row(self, content: memoryview, view: memoryview) -> int:
        """Write records of application data, full but for the last, one behind the other.

        Args:
            content: What they carry; must not overlap `view`.
            view: Where they go, with room for them: `OVERHEAD` more for each.

        Returns:
            The bytes written.
        """
        full, header, counter = self._full, _FULL_HEADER, self._counter
        encrypt_into = self._aead.encrypt_into
        ends, last = _BYTES, self._last
        beginning = self._beginning(counter)
        size = len(content)
        start, end = 0, 0
        while size - start >= MOST_CONTENT:
            body = end + HEADER_SIZE
            # Copied for the content type, which has to stand behind it: into the innermost cache.
            full[:MOST_CONTENT] = content[start : start + MOST_CONTENT]
            view[end:body] = header
            end = body + _FULL_SEALED
            encrypt_into(beginning + ends[last ^ (counter & 255)], full, header, view[body:end])
            counter += 1
            if not counter & 255:
                beginning = self._beginning(counter)
            start += MOST_CONTENT
        self._counter = counter
        if start < size:
            record = self.seal(APPLICATION_DATA, content[start:])
            view[end : end + len(record)] = record
            end += len(record)
        return end


class TLSOpener(_Direction):
    """Opens what this side receives.

    Args:
        suite: What the handshake agreed on.
        secret: The direction's application traffic secret.
        manners: Whose to have.

    Attributes:
        kind: The content type of what was last opened and is not application data; 0 for none.
        content: What it was.
        alert: The alert that answers what `open_row` raised.
    """

    __slots__ = ("_changes", "_manners", "alert", "content", "kind")

    def __init__(self, suite: Suite, secret: bytes, manners: Manners = OPENSSL_SERVER) -> None:
        super().__init__(suite, secret)
        self._manners = manners
        self._changes = 0  # of cipher specs, in a row
        self.kind = 0
        self.content = b""
        self.alert = 0

    def refuse(self, alert: int, problem: str) -> RemoteProtocolError:
        """Return what to raise, and note the alert that answers it."""
        self.alert = alert
        return RemoteProtocolError(problem)

    def _ignores(self, outer: int, version: int, length: int, body: memoryview) -> bool:
        """Judge a record that has no place, by its header and what has come of its body.

        Returns:
            Whether it is to be left out; if not, the rest of it has to be waited for.

        Raises:
            RemoteProtocolError: It ends the connection.
        """
        manners = self._manners
        if version != _VERSION:
            raise self.refuse(PROTOCOL_VERSION, "a record that is none of TLS 1.3")
        if length > manners.most_sealed:
            raise self.refuse(RECORD_OVERFLOW, "a record too long")
        change = outer == CHANGE_CIPHER_SPEC and length > 0 and manners.changes > 0
        if outer != APPLICATION_DATA and not (manners.late or change):
            raise self.refuse(UNEXPECTED_MESSAGE, "a record in clear")
        if len(body) < length:
            return False
        if not change or bytes(body) != b"\x01" or self._changes == manners.changes:
            raise self.refuse(UNEXPECTED_MESSAGE, "a record in clear, too long or too short")
        self._changes += 1
        return True

    def open_row(self, data: memoryview, view: memoryview, limit: int) -> tuple[int, int]:
        """Open the records that lie whole at the beginning of `data`.

        It stops behind a record that is not application data, which is in `kind` and `content`
        then.

        Args:
            data: What was received, from the beginning of a record.
            view: Where application data goes.
            limit: Bytes of it after which to stop; `view` has room for this and a record more.

        Returns:
            The bytes of `data` that were used, and the bytes written.

        Raises:
            RemoteProtocolError: The first record, as far as it is there, breaks TLS; `alert` is
                what to answer.  If one behind it does, that is raised next time.
        """
        counter, full_header = self._counter, _FULL_HEADER
        decrypt_into = self._aead.decrypt_into
        ends, lowest = _BYTES, self._last
        beginning = self._beginning(counter)
        unpack = _HEADER.unpack_from
        end = len(data)
        used, size = 0, 0
        self.kind = 0
        try:
            while size < limit and used + HEADER_SIZE <= end:
                outer, version, length = unpack(data, used)
                start = used + HEADER_SIZE
                stop = start + length
                if (
                    outer != APPLICATION_DATA
                    or version != _VERSION
                    or not _LEAST_SEALED <= length <= MOST_SEALED
                ):
                    if self._ignores(outer, version, length, data[start:stop]):
                        used = stop
                        continue
                    break
                if stop > end:
                    break
                header: Buffer = full_header if length == _FULL_SEALED else data[used:start]
                last = size + length - 17  # of the plaintext; the content type, if not padded
                nonce = beginning + ends[lowest ^ (counter & 255)]
                decrypt_into(nonce, data[start:stop], header, view[size : last + 1])
                counter += 1
                if not counter & 255:
                    beginning = self._beginning(counter)
                used = stop
                self._changes = 0
                kind = view[last]
                if not kind:
                    while last > size and not kind:
                        last -= 1
                        kind = view[last]
                if last - size > MOST_CONTENT or not kind:
                    counter -= 1
                    used = start - HEADER_SIZE
                    raise self.refuse(
                        RECORD_OVERFLOW if kind else UNEXPECTED_MESSAGE,
                        "a record too long, or without a content type",
                    )
                if kind == APPLICATION_DATA:
                    size = last
                else:
                    self.kind = kind
                    self.content = bytes(view[size:last])
                    break
        except InvalidTag:
            if not size:
                raise self.refuse(BAD_RECORD_MAC, "a bad record") from None
        except RemoteProtocolError:
            if not size:
                raise
        finally:
            self._counter = counter
        return used, size
