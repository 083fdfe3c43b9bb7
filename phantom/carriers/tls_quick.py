"""TLS of which somebody else does the handshake, and we the records, once the peer is trusted.

BoringSSL's package copies a byte six to eight times on its way, and OpenSSL's buffers do so three
times.  Sealed and opened here, by the keys that both tell (`phantom.carriers.tls_secrets`), it is
copied once and not at all (doc/adr/0031).  What is on the wire is the same.

Only a peer that has proven a key of ours is dealt with in this way: whoever else comes is the
engine's, with all its manners.
"""

from __future__ import annotations

from phantom.carriers.tls_engine import TLSEngine
from phantom.carriers.tls_secrets import TrafficSecrets
from phantom.crypto.tls13 import (
    ALERT,
    APPLICATION_DATA,
    HANDSHAKE,
    HEADER_SIZE,
    MOST_CONTENT,
    OVERHEAD,
    UNEXPECTED_MESSAGE,
    TLSOpener,
    TLSSealer,
)
from phantom.errors import RemoteProtocolError
from phantom.fast.buffers import SEALED_SIZE, SharedBuffer
from phantom.fast.sockets import READ_SIZE
from phantom.telemetry import make_logger

log = make_logger()

#: Most records of a handshake that look like application data: nginx sends one to four (its
#: certificate may need several), a client one, or three with a certificate of its own.
_MOST_HIDDEN = 16

#: How often replacing the engine is tried.
_TRIES = 8

#: Handshake messages that come later (RFC 8446, section 4).
_NEW_SESSION_TICKET = 4
_KEY_UPDATE = 24
#: Most bytes of one that comes in pieces; a ticket has 65,799 at most (section 4.6.1).
_MOST_MESSAGE = 66_000

#: Most records in a row that are not application data, as each of an update of keys takes some 30
#: microseconds and may want an answer.  BoringSSL takes as many updates (ssl/tls13_both.cc); a
#: ticket comes in five at most.
_MOST_CONTROLS = 32

_MESSAGE_HEADER = 4
#: What a KeyUpdate may hold (section 4.6.3), and ours.
_NOT_REQUESTED, _REQUESTED = b"\x00", b"\x01"
_OUR_UPDATE = b"\x18\x00\x00\x01" + _NOT_REQUESTED

#: An alert: how grave, and what; those that end one direction, or nothing (section 6.1).
_ALERT_SIZE = 2
_WARNING, _FATAL = 1, 2
_CLOSE_NOTIFY = 0
_USER_CANCELED = 90

# What is sealed lies here until it was sent, what is opened until it was dealt with: a batch of
# records of ours inside those of TLS, and one read with a record more.
_MOST_BULK = (SEALED_SIZE // MOST_CONTENT + 1) * MOST_CONTENT
_sealed = SharedBuffer(_MOST_BULK // MOST_CONTENT * (MOST_CONTENT + OVERHEAD))
_opened = memoryview(bytearray(READ_SIZE + 2 * MOST_CONTENT))

_NOTHING = memoryview(b"")

#: More than any connection carries.
_NEVER = 1 << 60


class _Count:
    """Follows records of a byte stream.

    Attributes:
        hidden: How many were, or began as, application data by their type.
        left: Bytes that the last one lacks; 0 between two.
    """

    __slots__ = ("_header", "hidden", "left")

    def __init__(self) -> None:
        self.hidden = 0
        self.left = 0
        self._header = b""

    @property
    def between(self) -> bool:
        """Whether the stream stands between two records."""
        return not self.left and not self._header

    def follow(self, data: bytes | memoryview) -> int:
        """Go on; return where in `data` the last record begins, if it begins there."""
        last = 0
        position, end = 0, len(data)
        while position < end:
            if self.left:
                step = min(self.left, end - position)
                self.left -= step
                position += step
                continue
            if not self._header:
                last = position
            step = min(HEADER_SIZE - len(self._header), end - position)
            self._header += bytes(data[position : position + step])
            position += step
            if len(self._header) == HEADER_SIZE:
                self.hidden += self._header[0] == APPLICATION_DATA
                # No record of TLS 1.3 is empty: what a stranger sends is then not followed, as a
                # header every five bytes would take long.
                self.left = int.from_bytes(self._header[3:], "big") or _NEVER
                self._header = b""
        return last


class QuickEngine:
    """A `phantom.carriers.tls_engine.TLSEngine` around another, which it replaces in time.

    That is when the first record comes after `trust_peer` was called: by then the engine has
    decrypted and sent all that it will.  It does everything if its keys are not known (TLS 1.2, a
    library that tells none), or do not fit.

    Args:
        engine: Does the handshake.

    Attributes:
        handshake_done: See `TLSEngine`.
        peer_closed: See `TLSEngine`.
    """

    __slots__ = (
        "_alpn",
        "_bulk",
        "_bulk_lent",
        "_came",
        "_controls",
        "_drained",
        "_engine",
        "_failed",
        "_held",
        "_last_sent",
        "_lent",
        "_messages",
        "_opener",
        "_pending",
        "_sealer",
        "_tries",
        "_trusted",
        "_went",
        "handshake_done",
        "peer_closed",
    )

    def __init__(self, engine: TLSEngine) -> None:
        self._engine: TLSEngine | None = engine
        self._trusted = False
        self._drained = True  # what the engine was given is decrypted
        self._came = _Count()
        self._went = _Count()
        self._last_sent = b""
        self._tries = _TRIES
        self._alpn: str | None = None
        self.handshake_done = False
        self.peer_closed = False
        # From here on for what is done without it.
        self._sealer: TLSSealer
        self._opener: TLSOpener
        self._held = b""  # received and not opened; while any are lent, whole records only
        self._lent = _NOTHING
        self._messages = bytearray()  # a part of a handshake message
        self._controls = 0  # records in a row that are not application data
        self._pending: list[bytes] = []  # sealed records
        self._bulk = _NOTHING  # and, behind them, in the shared buffer
        self._bulk_lent = False
        self._failed: RemoteProtocolError | None = None

    @property
    def replaced(self) -> bool:
        """Whether records are sealed and opened here."""
        return self._engine is None

    @property
    def alpn(self) -> str | None:
        """See `TLSEngine.alpn`."""
        return self._alpn if self._engine is None else self._engine.alpn

    def secrets(self) -> TrafficSecrets | None:
        """See `TLSEngine.secrets`."""
        return None if self._engine is None else self._engine.secrets()

    def peer_chain(self) -> list[bytes]:
        """See `TLSEngine.peer_chain`; forgotten with the engine."""
        return [] if self._engine is None else self._engine.peer_chain()

    def start(self) -> None:
        """See `TLSEngine.start`."""
        if self._engine is not None:
            self._engine.start()

    def trust_peer(self) -> None:
        """Note that the peer has proven a key of ours: the engine may be replaced."""
        self._trusted = True

    def _replace(self, engine: TLSEngine, data: bytes | memoryview) -> bool:
        """Go on without the engine, if this can be; `data` is what comes next."""
        unsent = engine.outgoing()
        if unsent:  # numbers that it has used and we do not know of; not expected
            self._pending.append(unsent)
            return False
        last_sent = self._last_sent
        record = bytes(data[: HEADER_SIZE + int.from_bytes(data[3:HEADER_SIZE], "big")])
        if (
            not self._drained
            or not self._came.between
            or not last_sent
            or len(data) < HEADER_SIZE
            or _missing(record)
            or record[0] != APPLICATION_DATA
        ):
            return False
        secrets = engine.secrets()
        self._tries -= 1
        if secrets is None or not self._tries:
            self._trusted = False
            return False
        # Which records were the handshake's, under other keys, cannot be seen; so these are tried.
        sealer = TLSSealer(secrets.suite, secrets.send)
        if not sealer.find(last_sent, _counters(self._went.hidden - 1)):
            self._last_sent = b""  # one of the handshake: wait for another
            return False
        sealer.skip()
        opener = TLSOpener(secrets.suite, secrets.receive, secrets.manners)
        if not opener.find(record, _counters(self._came.hidden)):
            return False
        self._sealer, self._opener = sealer, opener
        self._alpn = engine.alpn
        self._engine = None
        self._last_sent = b""
        log.debug("the records of TLS are sealed and opened by phantom from here on")
        return True

    # -- receiving --------------------------------------------------------------------

    def receive(self, data: bytes | memoryview) -> None:
        """See `TLSEngine.receive`."""
        engine = self._engine
        if engine is not None and not (self._trusted and self._replace(engine, data)):
            self._drained = False
            engine.receive(data)
            self._came.follow(data)
            self.handshake_done = engine.handshake_done
            return
        if self.peer_closed:
            return
        self.end_loan()
        view = memoryview(data)
        held = self._held
        if held:
            missing = _missing(held)
            if missing < 0:  # more than a record waits: the upper side has paused
                missing = len(view)
            while missing and view:
                held += bytes(view[:missing])
                view = view[missing:]
                missing = _missing(held)
            self._held = held
        self._lent = view

    def end_loan(self) -> None:
        """See `TLSEngine.end_loan`."""
        if self._engine is not None:
            self._engine.end_loan()
        elif self._lent:
            self._held += bytes(self._lent)
            self._lent = _NOTHING

    def plaintext(self, limit: int) -> bytes | memoryview:
        """See `TLSEngine.plaintext`."""
        engine = self._engine
        if engine is not None:
            data = engine.plaintext(limit)
            self._drained = not data
            self.peer_closed = engine.peer_closed
            return data
        if self._failed is not None:
            raise self._failed
        try:
            size = self._open(min(limit, READ_SIZE))
        except RemoteProtocolError as error:
            self._failed = error
            alert = self._opener.alert
            if alert:
                self._pending.append(self._sealer.seal(ALERT, bytes((_FATAL, alert))))
            raise
        return _opened[:size]

    def _open(self, limit: int) -> int:
        """Open into the shared buffer what was received; return how much that is."""
        opener = self._opener
        size = 0
        while size < limit and not self.peer_closed:
            if opener.kind:
                if size:
                    break  # what came before it first
                self._take_control(opener)
                continue
            source = memoryview(self._held) if self._held else self._lent
            try:
                used, opened = opener.open_row(source, _opened[size:], limit - size)
            except RemoteProtocolError:
                if size:
                    break  # it is raised again
                raise
            if opened:
                size += opened
                self._controls = 0
            if not used:
                break
            if self._held:
                self._held = self._held[used:]
            else:
                self._lent = self._lent[used:]
        return size

    def _take_control(self, opener: TLSOpener) -> None:
        """Deal with a record that is not application data.

        Raises:
            RemoteProtocolError: It ends the connection.
        """
        kind, content = opener.kind, opener.content
        opener.kind, opener.content = 0, b""
        self._controls += 1
        if self._controls > _MOST_CONTROLS:
            raise opener.refuse(UNEXPECTED_MESSAGE, "too much that is no data")
        if kind == ALERT and len(content) == _ALERT_SIZE and not self._messages:
            if content[1] == _CLOSE_NOTIFY:
                self.peer_closed = True
            elif content[1] != _USER_CANCELED:
                raise RemoteProtocolError(f"the peer's alert {content[1]}")
        elif kind == HANDSHAKE and content:
            self._messages += content
            self._take_messages(opener)
        else:
            raise opener.refuse(UNEXPECTED_MESSAGE, "a record of a kind that has no place here")

    def _take_messages(self, opener: TLSOpener) -> None:
        """Deal with whole handshake messages."""
        messages = self._messages
        while len(messages) >= _MESSAGE_HEADER:
            kind, size = messages[0], int.from_bytes(messages[1:_MESSAGE_HEADER], "big")
            end = _MESSAGE_HEADER + size
            if kind not in (_NEW_SESSION_TICKET, _KEY_UPDATE) or end > _MOST_MESSAGE:
                raise opener.refuse(UNEXPECTED_MESSAGE, "a handshake message after the handshake")
            if len(messages) < end:
                break
            body = bytes(messages[_MESSAGE_HEADER:end])
            del messages[:end]
            if kind == _KEY_UPDATE:
                # Nothing may stand behind it under the old key (RFC 8446, section 5.1).
                if messages or body not in (_NOT_REQUESTED, _REQUESTED):
                    raise opener.refuse(UNEXPECTED_MESSAGE, "a bad update of keys")
                opener.update()
                if body == _REQUESTED:
                    self._pending.append(self._sealer.seal(HANDSHAKE, _OUR_UPDATE))
                    self._sealer.update()

    # -- sending ----------------------------------------------------------------------

    def send(self, data: bytes | memoryview) -> None:
        """See `TLSEngine.send`."""
        if self._engine is not None:
            self._engine.send(data)
            return
        view = memoryview(data)
        while len(view) > _MOST_BULK:
            self.send(view[:_MOST_BULK])
            view = view[_MOST_BULK:]
        if self._bulk:
            self._pending.append(bytes(self._bulk))
            self._bulk = _NOTHING
        if len(view) <= MOST_CONTENT:
            self._pending.append(self._sealer.seal(APPLICATION_DATA, view))
        else:
            room = _sealed.view
            size = self._sealer.seal_row(view, room)
            self._bulk = room[:size]

    def close(self) -> None:
        """See `TLSEngine.close`."""
        if self._engine is not None:
            self._engine.close()
        elif self._failed is None:
            self._pending.append(self._sealer.seal(ALERT, bytes((_WARNING, _CLOSE_NOTIFY))))

    def outgoing(self) -> bytes:
        """See `TLSEngine.outgoing`."""
        if self._engine is not None:
            data = self._engine.outgoing()
            if self._pending:
                data = b"".join((*self._pending, data))
                self._pending = []
            self._follow_sent(data)
            return data
        pending = self._pending
        if self._bulk:
            pending.append(bytes(self._bulk))
            self._bulk = _NOTHING
        if not pending:
            return b""
        self._pending = []
        return b"".join(pending)  # of a single one, itself

    def outgoing_lent(self) -> bytes | memoryview:
        """See `TLSEngine.outgoing_lent`."""
        if self._engine is not None:
            if self._pending:
                return self.outgoing()
            data = self._engine.outgoing_lent()
            self._follow_sent(data)
            return data
        self._bulk_lent = not self._pending
        if self._pending:
            return self.outgoing()
        bulk = self._bulk
        self._bulk = _NOTHING
        return bulk

    def kept(self) -> None:
        """See `TLSEngine.kept`."""
        if self._engine is not None:
            self._engine.kept()
        elif self._bulk_lent:
            _sealed.renew()

    def _follow_sent(self, data: bytes | memoryview) -> None:
        """Note where the engine's counter stands: `data` is whole records."""
        if data:
            last = self._went.follow(data)
            if self.handshake_done and data[last] == APPLICATION_DATA:
                self._last_sent = bytes(data[last:])


def _missing(held: bytes) -> int:
    """Return what `held` lacks of its first record, or of its header; below 0 if it has more."""
    if len(held) < HEADER_SIZE:
        return HEADER_SIZE - len(held)
    return HEADER_SIZE + int.from_bytes(held[3:HEADER_SIZE], "big") - len(held)


def _counters(most: int) -> range:
    """Return what a record's number may be if at most so many came before it."""
    return range(most, max(-1, most - _MOST_HIDDEN), -1)
