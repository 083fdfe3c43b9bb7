"""Records: the sealed units of an established link.

A record is ``sealed length (2 + 16) | sealed body``.  The length, big endian, is that of the
sealed body, 17 to 65,535; it is sealed so that nobody can follow or move the boundaries of
records.  Length and body have keys of their own, derived from the key of the Noise split,
and share one counter, which is the nonce (Noise, 12.3 and 12.4): four zero bytes and the
counter, big endian for AESGCM, little endian for ChaChaPoly.  Every 65,536 records both
keys are replaced by Noise's REKEY (4.2); the counter goes on.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from phantom.core.handshake import TAG_SIZE, Cipher
from phantom.crypto.kdf import BODY_LABEL, LENGTH_LABEL, derive
from phantom.errors import LocalProtocolError, RemoteProtocolError

#: Bytes of a sealed length.
SEALED_LENGTH_SIZE = 2 + TAG_SIZE
#: A Noise message is at most 65,535 bytes (Noise, section 3).
MAX_BODY = 65535
#: Most plaintext of a record.
MAX_PLAINTEXT = MAX_BODY - TAG_SIZE
#: Bytes that sealing adds to a record's plaintext.
OVERHEAD = SEALED_LENGTH_SIZE + TAG_SIZE
#: Least sealed body: an empty record would carry no frame.
MIN_BODY = 1 + TAG_SIZE
#: Records under one key.  At 64 KB each that is 4 GiB, far below what AES-GCM allows at
#: this size (RFC 8446, 5.5), and a stolen key opens no more than that of the past.
REKEY_INTERVAL = 1 << 16
#: This nonce is REKEY's own (Noise, 4.2); no record may use it.
LAST_NONCE = (1 << 64) - 1

_LENGTH = struct.Struct(">H")
_AEADS: dict[Cipher, type[AESGCM] | type[ChaCha20Poly1305]] = {
    Cipher.AESGCM: AESGCM,
    Cipher.CHACHAPOLY: ChaCha20Poly1305,
}
# "4x" packs four zero bytes.
_NONCES = {Cipher.AESGCM: struct.Struct(">4xQ"), Cipher.CHACHAPOLY: struct.Struct("<4xQ")}

Buffer = bytes | bytearray | memoryview


class _Direction:
    """The two keys and the counter of one direction."""

    __slots__ = ("_aead", "_body", "_counter", "_length", "_pack", "_rekey_at")

    def __init__(self, key: bytes, cipher: Cipher) -> None:
        self._aead = _AEADS[cipher]
        self._pack = _NONCES[cipher].pack
        self._counter = 0
        self._rekey_at = REKEY_INTERVAL
        self._use(derive(key, LENGTH_LABEL), derive(key, BODY_LABEL))

    def _use(self, length_key: bytes, body_key: bytes) -> None:
        self._length = self._aead(length_key)
        self._body = self._aead(body_key)

    def _rekey(self) -> None:
        """Replace both keys; called when the counter reaches `_rekey_at`."""
        if self._counter >= LAST_NONCE:
            raise LocalProtocolError("a link ran out of nonces")
        nonce = self._pack(LAST_NONCE)
        self._use(
            self._length.encrypt(nonce, bytes(32), b"")[:32],
            self._body.encrypt(nonce, bytes(32), b"")[:32],
        )
        # The last interval is one short of whole: the nonce that ends it is reserved.
        self._rekey_at = min(self._rekey_at + REKEY_INTERVAL, LAST_NONCE)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at record {self._counter}>"


# Median microseconds a record on CPython 3.11, cryptography 50, a CPU with AES, AESGCM,
# the body only:               100 B   1400 B   16 KB   65,519 B
#   encrypt, join with length   0.80     0.86    2.85       8.92
#   encrypt_into a new buffer   0.95     1.22    2.93       8.02
#   encrypt_into a kept buffer  0.55     0.73    2.23       6.85
#   decrypt                     0.53     0.74    2.37       7.48
#   decrypt_into a new buffer   0.69     0.93    2.63       7.66
# (ChaChaPoly has the same order; 0.96 and 21.6 in the first line's corners.)  So `seal`
# joins, and gives the `bytes` that every transport takes, at the cost of one copy of the
# body for large records; `seal_row` is for who keeps a buffer, and opening has one.


class RecordSealer(_Direction):
    """Seals what this side sends.

    Args:
        key: The key of the Noise split for this direction, 32 bytes.
        cipher: The link's cipher.
    """

    __slots__ = ()

    def seal(self, plaintext: Buffer) -> bytes:
        """Return one whole record.

        Args:
            plaintext: 1 to `MAX_PLAINTEXT` bytes.

        Raises:
            LocalProtocolError: The plaintext is empty or too long, or the link is used up.
        """
        size = len(plaintext) + TAG_SIZE
        if not MIN_BODY <= size <= MAX_BODY:
            raise LocalProtocolError("a record too long or empty")
        counter = self._counter
        if counter >= self._rekey_at:
            self._rekey()
        nonce = self._pack(counter)
        self._counter = counter + 1
        return self._length.encrypt(nonce, _LENGTH.pack(size), None) + self._body.encrypt(
            nonce, plaintext, None
        )

    def seal_row(self, plaintexts: Sequence[Buffer], view: memoryview) -> int:
        """Write records, one behind the other, to a buffer that is kept: one call for many.

        Args:
            plaintexts: Of each record; must not overlap `view`.
            view: Where they go, with room for all: the bytes of each and 34 more.

        Returns:
            The bytes written.

        Raises:
            LocalProtocolError: As `seal`, or the buffer is too small; those before it are
                written and have used up their nonces.
        """
        pack, pack_length = self._pack, _LENGTH.pack
        room = len(view)
        end = 0
        for plaintext in plaintexts:
            size = len(plaintext) + TAG_SIZE
            start = end + SEALED_LENGTH_SIZE
            stop = start + size
            if not MIN_BODY <= size <= MAX_BODY or stop > room:
                raise LocalProtocolError("a record too long or empty, or no room for it")
            counter = self._counter
            if counter >= self._rekey_at:
                self._rekey()
            nonce = pack(counter)
            self._counter = counter + 1
            view[end:start] = self._length.encrypt(nonce, pack_length(size), None)
            self._body.encrypt_into(nonce, plaintext, None, view[start:stop])
            end = stop
        return end


class RecordOpener(_Direction):
    """Opens what this side receives: `open_length`, then `open_body`, in turn, or `open_row`.

    Args:
        key: The key of the Noise split for this direction, 32 bytes.
        cipher: The link's cipher.
    """

    __slots__ = ()

    def open_length(self, sealed: Buffer) -> int:
        """Return the size of the sealed body that follows, `MIN_BODY` to `MAX_BODY`.

        Args:
            sealed: `SEALED_LENGTH_SIZE` bytes.

        Raises:
            RemoteProtocolError: It is not authentic, or the size is out of bounds.
        """
        if self._counter >= self._rekey_at:
            self._rekey()
        try:
            (size,) = _LENGTH.unpack(self._length.decrypt(self._pack(self._counter), sealed, None))
        except (InvalidTag, struct.error):
            raise RemoteProtocolError("a record that is not authentic") from None
        if size < MIN_BODY:
            raise RemoteProtocolError("an empty record")
        return int(size)

    def open_body(self, sealed: Buffer, buffer: memoryview | None = None) -> memoryview:
        """Return the plaintext, and go on to the next record.

        Args:
            sealed: As many bytes as `open_length` said.
            buffer: Where the plaintext goes, at its beginning; long enough.  None for memory
                of its own.

        Returns:
            The part of `buffer` that was written.

        Raises:
            RemoteProtocolError: It is not authentic; the counter stays.
        """
        size = len(sealed) - TAG_SIZE
        plaintext = memoryview(bytearray(size)) if buffer is None else buffer[:size]
        try:
            self._body.decrypt_into(self._pack(self._counter), sealed, None, plaintext)
        except InvalidTag:
            raise RemoteProtocolError("a record that is not authentic") from None
        self._counter += 1
        return plaintext

    def open_row(
        self, data: memoryview, plaintexts: memoryview, records: list[memoryview]
    ) -> tuple[int, int]:
        """Open all records that lie whole at the beginning of `data`: one call for many.

        As `open_length` and `open_body` for each, in one loop.

        Args:
            data: What was received.
            plaintexts: Where the plaintexts go, one behind the other.
            records: Gets the plaintexts, parts of `plaintexts`.

        Returns:
            The bytes that were used, and the size of the sealed body that follows them, if its
            length could be opened already; else 0.

        Raises:
            RemoteProtocolError: A record is not authentic, or empty; those before it are in
                `records`.
        """
        pack, unpack = self._pack, _LENGTH.unpack
        counter = self._counter
        position, end = 0, len(data)
        open_length, open_into = self._length.decrypt, self._body.decrypt_into
        try:
            while True:
                start = position + SEALED_LENGTH_SIZE
                if start > end:
                    return position, 0
                if counter >= self._rekey_at:
                    self._counter = counter
                    self._rekey()
                    open_length, open_into = self._length.decrypt, self._body.decrypt_into
                nonce = pack(counter)
                size = unpack(open_length(nonce, data[position:start], None))[0]
                if size < MIN_BODY:
                    raise RemoteProtocolError("an empty record")
                position = start + size
                if position > end:
                    return start, size
                record = plaintexts[: size - TAG_SIZE]
                open_into(nonce, data[start:position], None, record)
                counter += 1
                records.append(record)
                plaintexts = plaintexts[size - TAG_SIZE :]
        except InvalidTag:
            raise RemoteProtocolError("a record that is not authentic") from None
        finally:
            self._counter = counter


class RecordReader:
    """Cuts a byte stream into records and opens them.

    Every byte is copied at most once, however the stream is cut, and not at all when a
    record lies whole in what was received.  At most one incomplete record is held.

    Args:
        opener: Opens the records.

    Attributes:
        failure: Why nothing is read any more: a record was not authentic.  From then on
            everything is discarded, silently: the stream has no boundaries any more.
    """

    __slots__ = ("_opener", "_partial", "_size", "failure")

    def __init__(self, opener: RecordOpener) -> None:
        self._opener = opener
        # The beginning of a sealed length or body; then which: the body's size, or 0.
        self._partial = bytearray()
        self._size = 0
        self.failure: RemoteProtocolError | None = None

    @property
    def missing(self) -> int:
        """Bytes that the record in hand still lacks; 0 between two records."""
        if self._size:
            return self._size - len(self._partial)
        return SEALED_LENGTH_SIZE - len(self._partial) if self._partial else 0

    def receive(self, data: Buffer, plaintexts: memoryview) -> list[memoryview]:
        """Take more of the stream.

        Args:
            data: What was received.
            plaintexts: Where the plaintexts of the records go, one behind the other: as many
                bytes as `data` has, and `MAX_PLAINTEXT` more.

        Returns:
            The plaintext of each record that is complete, in order.  `failure` tells whether
            there was one more, which is not authentic.
        """
        records: list[memoryview] = []
        if self.failure is not None:
            return records
        view = memoryview(data)
        partial = self._partial
        try:
            if self._size or partial:
                view, plaintexts = self._go_on(view, plaintexts, records)
            if view and not partial and not self._size:
                used, self._size = self._opener.open_row(view, plaintexts, records)
                partial += view[used:]
        except RemoteProtocolError as error:
            self.failure = error
            partial.clear()
        return records

    def _go_on(
        self, view: memoryview, plaintexts: memoryview, records: list[memoryview]
    ) -> tuple[memoryview, memoryview]:
        """Complete the record in hand, if it can be; return what is left of both."""
        partial = self._partial
        while view:
            missing = (self._size or SEALED_LENGTH_SIZE) - len(partial)
            if missing > len(view):
                partial += view
                return view[:0], plaintexts
            piece: Buffer = view[:missing]
            view = view[missing:]
            if partial:
                partial += piece
                piece = partial
            if self._size:
                record = self._opener.open_body(piece, plaintexts)
                records.append(record)
                self._size = 0
                partial.clear()
                return view, plaintexts[len(record) :]
            self._size = self._opener.open_length(piece)
            partial.clear()
        return view, plaintexts
