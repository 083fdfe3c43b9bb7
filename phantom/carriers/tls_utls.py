"""TLS as a browser speaks it, by the optional package `utls` (BoringSSL).

The hello is Chrome's, field for field as captured from Chromium 156.  The package's profile
shuffles the trust anchor identifiers, which Chromium sends sorted by their bytes; that is
corrected here.

Later connections of Chromium's resume the TLS session of earlier ones.  Ours do not: the
package hands out BoringSSL's ``SSL_get_session``, which in TLS 1.3 holds no ticket, and not
the callback that does (tried with 2026.10.3, with and without a fingerprint: the second
hello has no pre_shared_key extension).
"""

from __future__ import annotations

import hashlib
import random
import ssl
from collections import deque
from importlib import import_module
from typing import Any

from phantom.carriers.tls_engine import HTTP1_ALPN, TLSEngine
from phantom.carriers.tls_openssl import kept_on_failure, server_context
from phantom.carriers.tls_secrets import KeyLog, KeyLogPipe, TrafficSecrets
from phantom.core.browser_profiles import RANDOM, preset_for
from phantom.crypto.tls13 import BORINGSSL
from phantom.errors import ConfigurationError, RemoteProtocolError
from phantom.fast.sockets import READ_SIZE


def _optional(name: str) -> Any:
    """Import a package that need not be installed; None when it is not."""
    try:
        return import_module(name)
    except ImportError:
        return None


utls = _optional("utls")

#: Whether the browser engine can be had.
AVAILABLE = utls is not None

#: One TLS record's plaintext (RFC 8446, section 5.1); a read never returns more.
_RECORD = 16384

#: Bytes of ciphertext given to the library at a time: a full record of TLS 1.3 (RFC 8446, section
#: 5.2: a header, a content type and a tag more), if they begin with one, as while reads keep up.
#: The library moves all that it holds with every record that it takes, and what is this small stays
#: in the processor's innermost cache from one copy to the next (measured: doc/adr/0020).
_PIECE = _RECORD + 22

#: Bytes that are decrypted for one call at most: what it is asked for, and one piece more.
_OPENED_ROOM = READ_SIZE + _PIECE + _RECORD

# What is decrypted of a long read lies here until any engine is asked for more, as with OpenSSL.
_opened = memoryview(bytearray(_OPENED_ROOM))

_NOTHING = memoryview(b"")

# What the library's core raises; a tuple, as it may have none.
_CORE_ERROR: Any = getattr(_optional("utls._utls"), "CoreError", ())


def _sorted_anchors(blob: bytes) -> bytes:
    """Sort identifiers, each one preceded by its length in one byte, by their own bytes."""
    identifiers: list[bytes] = []
    offset = 0
    while offset < len(blob):
        end = offset + 1 + blob[offset]
        identifiers.append(blob[offset:end])
        offset = end
    identifiers.sort(key=lambda identifier: identifier[1:])
    return b"".join(identifiers)


#: What ``random`` was, once drawn: a browser keeps its version from one connection to the
#: next, so one process is one browser.
_drawn: str | None = None


def preset_of(profile: str) -> str:
    """Return the library's name, ``chrome:NUMBER``, of what a profile stands for.

    Raises:
        ConfigurationError: There is no such profile.
    """
    global _drawn
    if profile == RANDOM and _drawn is not None:
        return _drawn
    preset = preset_for(profile, utls.presets(), random.SystemRandom().choice)
    if profile == RANDOM:
        _drawn = preset
    return preset


def browser_fingerprint(profile: str, alpn: tuple[str, ...]) -> Any:
    """Return the `utls.Fingerprint` of `profile` opening a connection for `alpn`.

    Args:
        profile: See `phantom.core.browser_profiles.parse_profile`.
        alpn: What to offer; without "h2" the hello is that of a WebSocket connection.

    Raises:
        ConfigurationError: There is no such profile.
    """
    fields = utls.get_preset(preset_of(profile)).to_dict()
    if fields.get("trust_anchors"):
        fields["trust_anchors"] = _sorted_anchors(fields["trust_anchors"])
        fields["permute_trust_anchors"] = False
    fields["alpn"] = list(alpn)
    if "h2" not in alpn:
        fields["alps"] = []
    return utls.Fingerprint.from_dict(fields)


class UTLSEngine:
    """A `phantom.carriers.tls_engine.TLSEngine` on a pair of BoringSSL's memory buffers.

    Args:
        context: Where certificates and options come from, and which side to take.
        server_name: The name to ask for, as a client; None to ask for none.
        server: Whether the context is a server's.
        key_pipe: Where the context logs its keys.
    """

    __slots__ = (
        "_core_read",
        "_feed",
        "_incoming",
        "_key_log",
        "_key_pipe",
        "_lent",
        "_outgoing",
        "_server",
        "_tls",
        "_unfed",
        "handshake_done",
        "peer_closed",
    )

    def __init__(
        self,
        context: Any,
        server_name: str | None,
        *,
        server: bool = False,
        key_pipe: KeyLogPipe | None = None,
    ) -> None:
        self._server = server
        self._key_log = KeyLog()
        self._key_pipe = key_pipe
        self._incoming = utls.MemoryBIO()
        self._outgoing = utls.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server, server_hostname=server_name
        )
        # What was received and not yet given to the library: first pieces of our own, then a view
        # that is lent.  It is copied piece by piece, as each is decrypted.
        self._unfed: deque[bytes] = deque()
        self._lent = _NOTHING
        # Its core, without the layer that makes it look like the standard library's `ssl`: that
        # costs a sixth of a read.  Where it is not as expected, the layer does.
        self._feed = getattr(getattr(self._incoming, "_bio", None), "write", self._incoming.write)
        self._core_read = getattr(getattr(self._tls, "_conn", None), "read", None)
        self.handshake_done = False
        self.peer_closed = False

    def start(self) -> None:
        """See `TLSEngine.start`."""
        self._handshake()

    def receive(self, data: bytes | memoryview) -> None:
        """See `TLSEngine.receive`."""
        # It takes `bytes` and nothing else; of those, whole, this is no copy.
        if not self.handshake_done:
            self._incoming.write(bytes(data))
            self._handshake()
            return
        self.end_loan()
        if len(data) <= _PIECE:
            self._unfed.append(bytes(data))
        else:
            self._lent = memoryview(data)

    def end_loan(self) -> None:
        """See `TLSEngine.end_loan`."""
        view = self._lent
        if view:
            self._lent = _NOTHING
            self._unfed.extend(bytes(view[i : i + _PIECE]) for i in range(0, len(view), _PIECE))

    def _handshake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            raise RemoteProtocolError(_reason(error)) from None
        finally:
            if self._key_pipe is not None:
                self._key_log.add(self._key_pipe.read())
        self.handshake_done = True

    def plaintext(self, limit: int) -> bytes | memoryview:
        """See `TLSEngine.plaintext`."""
        limit = min(limit, READ_SIZE)
        first = b""
        size = 0
        while size < limit:
            # One call decrypts as many records as it is given room for, and clears that room
            # first: never ask for more than can be there (0.2 against 2.2 s/GB with a room of
            # 256 KiB for each record).  The record may lie half in the engine already.
            piece = self._next_piece()
            if piece:
                self._feed(piece)
                room = len(piece) + _RECORD
            elif size:
                break  # one read decrypts all that was fed
            else:
                room = min(_PIECE, self._incoming.pending) + _RECORD
            try:
                data = self._read(room)
            except RemoteProtocolError:
                if not size:
                    raise
                break  # what came before it first; the library raises again
            if self.peer_closed or not (data or self._unfed or self._lent):
                break
            if not size:
                first = data
            else:
                if size == len(first):
                    _opened[:size] = first
                _opened[size : size + len(data)] = data
            size += len(data)
        return first if size == len(first) else _opened[:size]

    def _next_piece(self) -> bytes:
        """Return what is to be given to the library next; nothing, when all of it was."""
        if self._unfed:
            return self._unfed.popleft()
        view = self._lent
        if not view:
            return b""
        self._lent = view[_PIECE:]
        return bytes(view[:_PIECE])

    def _read(self, room: int) -> bytes:
        """Return what can be decrypted of what was fed, at most `room` bytes."""
        try:
            if self._core_read is not None:
                try:
                    data: bytes = self._core_read(room)
                    if data:
                        return data
                except _CORE_ERROR as error:
                    if error.args and error.args[0] == "WantRead":
                        return b""
            data = self._tls.read(room)  # says what is wrong
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLError as error:
            raise RemoteProtocolError(_reason(error)) from None
        if not data:
            self.peer_closed = True
        return data

    def send(self, data: bytes | memoryview) -> None:
        """See `TLSEngine.send`."""
        data = bytes(data)  # it takes nothing else; of bytes this is no copy
        try:
            sent = self._tls.write(data)  # all of it: a memory BIO takes everything
            while sent < len(data):
                sent += self._tls.write(data[sent:])
        except ssl.SSLError as error:
            raise RemoteProtocolError(_reason(error)) from None

    def close(self) -> None:
        """See `TLSEngine.close`."""
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            # The engine is dead already, or waits for the peer's close_notify: ours is out.
            return

    def outgoing(self) -> bytes:
        """See `TLSEngine.outgoing`."""
        return bytes(self._outgoing.read())

    #: Its own `bytes` is as quick, and may be kept.
    outgoing_lent = outgoing

    def kept(self) -> None:
        """See `TLSEngine.kept`."""

    @property
    def alpn(self) -> str | None:
        """See `TLSEngine.alpn`."""
        chosen: str | None = self._tls.selected_alpn_protocol()
        return chosen

    def secrets(self) -> TrafficSecrets | None:
        """See `TLSEngine.secrets`."""
        suite = (self._tls.cipher() or (None,))[0]
        return self._key_log.secrets(suite, BORINGSSL, server=self._server)

    def peer_chain(self) -> list[bytes]:
        """See `TLSEngine.peer_chain`."""
        encoding = utls.Certificate.ENCODING_DER
        return [entry.public_bytes(encoding) for entry in self._tls.get_unverified_chain()]


def _reason(error: ssl.SSLError) -> str:
    """Return the engine's own words for `error`; they are fixed texts, never peer bytes."""
    return str(error.args[-1]) if error.args else "unknown"


class UTLSClientEngines:
    """Makes client engines whose hello is a browser's.

    Args:
        server_name: The name to ask for, or None.
        alpn: The protocols to offer, best first.
        profile: See `browser_fingerprint`.
        ech: An ECHConfigList by which to encrypt the inner hello with the true name.

    Raises:
        ConfigurationError: There is no such profile, or the list cannot be used.
    """

    def __init__(
        self,
        server_name: str | None,
        alpn: tuple[str, ...],
        profile: str,
        ech: bytes | None = None,
    ) -> None:
        context = utls.SSLContext(utls.PROTOCOL_TLS_CLIENT)
        # `phantom.carriers.verify` judges the certificate, for both engines alike.
        context.check_hostname = False
        context.verify_mode = utls.CERT_NONE
        context.set_fingerprint(browser_fingerprint(profile, alpn))
        self._context = context if ech is None else context.set_ech_configs(ech)
        self._key_pipe = KeyLogPipe(self._context)
        self._server_name = server_name
        if ech is not None:
            self._check_ech()

    def _check_ech(self) -> None:
        try:
            self.engine().start()
        except (RemoteProtocolError, ssl.SSLError, ValueError):
            raise ConfigurationError(
                "cannot be used: BoringSSL knows none of its ciphers", key="client.tls_ech"
            ) from None

    def engine(self) -> UTLSEngine:
        """Return the client's side of a new connection."""
        self._key_pipe.begin()
        return UTLSEngine(self._context, self._server_name, key_pipe=self._key_pipe)


class UTLSServerCertificates:
    """The server's certificate for BoringSSL, replaceable while the server runs.

    It has another face: records after the handshake, alerts and the answer to an unknown
    application protocol are those of the big sites that run BoringSSL, not nginx's, so a prober
    who compares with the decoy finds differences (doc/probing.md).

    Args:
        cert_path: A PEM file with the certificate and those that signed it, in order.
        key_path: A PEM file with the private key.
        alpn: The protocols to agree to, best first.

    Raises:
        ConfigurationError: They cannot be used, or the package is not installed.
    """

    def __init__(self, cert_path: str, key_path: str, alpn: tuple[str, ...] = HTTP1_ALPN) -> None:
        if not AVAILABLE:
            raise ConfigurationError(
                "BoringSSL is not installed",
                key="server.tls_engine",
                fix="pip install 'phantom[utls]', or tls_engine = \"openssl\"",
            )
        self.cert_path = cert_path
        self.key_path = key_path
        self.alpn = alpn
        self._context = self._load()

    def _load(self) -> Any:
        # OpenSSL judges the files, so that both engines complain in the same words.
        server_context(self.cert_path, self.key_path, self.alpn)
        context = utls.SSLContext(utls.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.cert_path, self.key_path)
        except ssl.SSLError as error:
            raise ConfigurationError(
                f"is not usable with BoringSSL: {_reason(error)}",
                file=self.cert_path,
                key="tls_cert",
            ) from None
        context.set_alpn_protocols(list(self.alpn))
        # What a ticket is good for: this certificate, in this process.
        context.set_session_id_context(
            hashlib.sha1(self.cert_path.encode(), usedforsecurity=False).digest()
        )
        self._key_pipe = KeyLogPipe(context)
        return context

    def reload(self) -> None:
        """See `phantom.carriers.tls_engine.ServerEngines.reload`."""
        self._context = kept_on_failure(self._load)

    def engine(self) -> TLSEngine:
        """Return the server's side of a new connection."""
        self._key_pipe.begin()
        return UTLSEngine(self._context, None, server=True, key_pipe=self._key_pipe)
