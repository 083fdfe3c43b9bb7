"""TLS by OpenSSL (through pyOpenSSL), for servers and as the client's fallback.

The server context is set up so that its records are those of nginx: a raw context without
OP_NO_TICKET (two tickets after the handshake), a session id context of 20 bytes (which sizes
the tickets), an answer to the server name (which sizes EncryptedExtensions), and nginx's
default cipher list.  Twisted's ready-made context differs in
each of these and is recognised by them.  The groups are those of the machine's own OpenSSL
(`phantom.carriers.tls_groups`), and what only OpenSSL 4 does otherwise is undone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib import import_module
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from phantom.carriers import tls_groups
from phantom.carriers.tls_engine import HTTP1_ALPN, TLSEngine
from phantom.carriers.tls_secrets import KeyLog, TrafficSecrets
from phantom.core import ssl2_hello
from phantom.crypto.tls13 import OPENSSL_CLIENT, OPENSSL_SERVER
from phantom.errors import ConfigurationError, RemoteProtocolError
from phantom.fast.buffers import SEALED_SIZE, SharedBuffer
from phantom.fast.sockets import READ_SIZE

#: nginx's default ``ssl_ciphers``; it orders nothing in TLS 1.3.
_SERVER_CIPHERS = b"HIGH:!aNULL:!MD5"

#: nginx's default ``ssl_session_timeout`` in seconds; it is sent in every ticket.
_SESSION_TIMEOUT = 300

#: One TLS record's plaintext (RFC 8446, section 5.1); SSL_read never returns more.
_RECORD = 16384

#: The most that `_Fast.read` returns at once: the layer asks for no more.
_READ_ROOM = READ_SIZE

#: The most that `_Fast.drain` returns at once: a batch of records of ours, inside records of TLS.
_SEND_ROOM = SEALED_SIZE + 4096

#: What is taken at once of what is copied: answers and handshake flights, as bulk is lent.
_COPY_ROOM = 65536

#: OpenSSL's number (openssl/ssl.h); pyOpenSSL does not name it.
_MODE_ENABLE_PARTIAL_WRITE = 0x1


def _reason(error: SSL.Error) -> str:
    """Return OpenSSL's own words for `error`; they are fixed texts, never peer bytes."""
    queue = error.args[0] if error.args else None
    if isinstance(queue, list) and queue:
        return str(queue[0][-1]) or "unknown"
    if isinstance(error, SSL.SysCallError):
        return "unexpected end"
    return "unknown"


class _Fast:
    """Reads into memory that is kept, which pyOpenSSL's own interface cannot.

    ``Connection.recv`` allocates for each record of 16 KB and copies it; `read` takes 0.24
    instead of 0.34 s/GB, measured as ``Connection.recv`` and this in turn with batches of
    128 KB.  ``Connection.bio_read`` copies into memory of its own and from there into
    `bytes`; `drain` copies once.  Of both, the last call of a batch finds nothing, which
    pyOpenSSL says by an exception.  They use pyOpenSSL's private binding, so `_fast` is None
    where that is not as expected, and everything works without it.

    One buffer each way serves all connections: what is read is dealt with at once, and of what
    is drained another buffer takes the place if somebody keeps it.  What is copied at once has one
    of its own, as the other may be lent.
    """

    def __init__(self) -> None:
        binding = import_module("OpenSSL._util")
        self._lib, ffi = binding.lib, binding.ffi
        # What is looked up here must exist, or there is no fast way.
        self._ssl_read = self._lib.SSL_read
        self._get_error = self._lib.SSL_get_error
        self._want_read = self._lib.SSL_ERROR_WANT_READ
        self._benign = (self._want_read, self._lib.SSL_ERROR_ZERO_RETURN)
        self._clear_errors = self._lib.ERR_clear_error
        self._buffer = memoryview(bytearray(_READ_ROOM))
        self._address = ffi.cast("char *", ffi.from_buffer(self._buffer))
        self._bio_read = self._lib.BIO_read
        connection: Any = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
        _ = connection._ssl, connection._from_ssl
        self._at = ffi.from_buffer
        self.sent = SharedBuffer(_SEND_ROOM)
        self._copied = memoryview(bytearray(_COPY_ROOM))

    def read(self, connection: SSL.Connection, limit: int) -> tuple[memoryview | None, str | None]:
        """Return what can be decrypted, and what is wrong with what follows it.

        Returns:
            None as the first if nothing can be and not because more has to come:
            pyOpenSSL's own call finds out why, and says it.
        """
        ssl: Any = connection._ssl
        read, address = self._ssl_read, self._address
        room = min(limit, _READ_ROOM)
        size = 0
        while size < room:
            result = read(ssl, address + size, room - size)
            if result <= 0:
                error = self._get_error(ssl, result)
                if not size:
                    return self._buffer[:0] if error == self._want_read else None, None
                if error not in self._benign:
                    # Left in the thread's queue the error would be taken for the next
                    # connection's.
                    self._clear_errors()
                    return self._buffer[:size], "a bad record"
                break
            size += result
        return self._buffer[:size], None

    def drain(self, connection: SSL.Connection, view: memoryview) -> memoryview:
        """Return what is to go to the network, as far as it fits `view`, which it is read into."""
        bio: Any = connection._from_ssl
        return view[: max(0, self._bio_read(bio, self._at(view), len(view)))]

    def drain_all(self, connection: SSL.Connection) -> bytes:
        """Return all that is to go to the network."""
        pieces: list[bytes] = []
        while True:
            piece = bytes(self.drain(connection, self._copied))
            pieces.append(piece)
            if len(piece) < _COPY_ROOM:
                return b"".join(pieces)  # of a single one, itself


def _fast_or_none() -> _Fast | None:
    try:
        return _Fast()
    except (AttributeError, ImportError, TypeError):
        return None


_fast = _fast_or_none()


class OpenSSLEngine:
    """A `phantom.carriers.tls_engine.TLSEngine` on a pair of memory BIOs.

    Args:
        context: Where certificates and options come from.
        server_name: The name to ask for, as a client; None to ask for none.
        server: Which side to take.
    """

    __slots__ = (
        "_alert",
        "_beginning",
        "_connection",
        "_error",
        "_key_log",
        "_server",
        "handshake_done",
        "peer_closed",
    )

    def __init__(
        self, context: SSL.Context, *, server: bool, server_name: str | None = None
    ) -> None:
        self._connection = SSL.Connection(context, None)
        self._error: str | None = None  # found behind plaintext that had to come first
        # What a client began with, while it may be a hello that only older ones understand.
        self._beginning: bytes | None = b"" if server else None
        self._alert = b""
        self._server = server
        self._key_log = KeyLog()
        self._connection.set_app_data(self._key_log)
        self.handshake_done = False
        self.peer_closed = False
        if server:
            self._connection.set_accept_state()
        else:
            if server_name is not None:
                self._connection.set_tlsext_host_name(server_name.encode("ascii"))
            self._connection.set_connect_state()

    def use_certificate_of(self, context: SSL.Context) -> None:
        """Take the certificate from another context; tickets stay the first one's."""
        self._connection.set_context(context)

    def start(self) -> None:
        """See `TLSEngine.start`."""
        self._handshake()

    def receive(self, data: bytes | memoryview) -> None:
        """See `TLSEngine.receive`."""
        if self._beginning is not None:
            data = self._beginning + bytes(data)
            answer = ssl2_hello.answer(data)
            if answer is None:
                self._beginning = data
                return
            self._beginning = None
            if answer:
                self._alert = answer
                raise RemoteProtocolError("an SSL 2.0 hello")
        self._connection.bio_write(data)
        if not self.handshake_done:
            self._handshake()

    def end_loan(self) -> None:
        """See `TLSEngine.end_loan`; OpenSSL copies at once."""

    def _handshake(self) -> None:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return
        except SSL.Error as error:
            raise RemoteProtocolError(_reason(error)) from None
        except _NoCommonProtocol:
            raise RemoteProtocolError("no application protocol in common") from None
        self.handshake_done = True

    def plaintext(self, limit: int) -> bytes | memoryview:
        """See `TLSEngine.plaintext`."""
        if self._error is not None:
            raise RemoteProtocolError(self._error)
        if _fast is not None:
            data, self._error = _fast.read(self._connection, limit)
            if data is not None:
                return data
        try:
            return self._connection.recv(_RECORD)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.peer_closed = True
        except SSL.Error as error:
            raise RemoteProtocolError(_reason(error)) from None
        return b""

    def send(self, data: bytes | memoryview) -> None:
        """See `TLSEngine.send`."""
        try:
            # One call: `_common_options` asks for whole writes, and a memory BIO takes all.
            sent = self._connection.send(data)
            while sent < len(data):
                sent += self._connection.send(data[sent:])
        except SSL.Error as error:
            raise RemoteProtocolError(_reason(error)) from None

    def close(self) -> None:
        """See `TLSEngine.close`."""
        try:
            self._connection.shutdown()
        except SSL.Error:
            # The engine is dead already: there is no one to notify.
            return

    def outgoing(self) -> bytes:
        """See `TLSEngine.outgoing`."""
        if self._alert:
            alert, self._alert = self._alert, b""
            return alert
        if _fast is not None:
            return _fast.drain_all(self._connection)
        pieces: list[bytes] = []
        try:
            while True:
                pieces.append(self._connection.bio_read(_COPY_ROOM))
        except SSL.WantReadError:
            return b"".join(pieces)

    def outgoing_lent(self) -> bytes | memoryview:
        """See `TLSEngine.outgoing_lent`."""
        if _fast is None or self._alert:
            return self.outgoing()
        data = _fast.drain(self._connection, _fast.sent.view)
        if len(data) == _SEND_ROOM:
            return bytes(data) + self.outgoing()
        return data

    def kept(self) -> None:
        """See `TLSEngine.kept`."""
        if _fast is not None:
            _fast.sent.renew()

    @property
    def alpn(self) -> str | None:
        """See `TLSEngine.alpn`."""
        chosen: bytes = self._connection.get_alpn_proto_negotiated()
        return chosen.decode("ascii", "replace") if chosen else None

    def secrets(self) -> TrafficSecrets | None:
        """See `TLSEngine.secrets`."""
        manners = OPENSSL_SERVER if self._server else OPENSSL_CLIENT
        suite = self._connection.get_cipher_name()
        return self._key_log.secrets(suite, manners, server=self._server)

    def peer_chain(self) -> list[bytes]:
        """See `TLSEngine.peer_chain`."""
        chain = self._connection.get_peer_cert_chain(as_cryptography=True) or []
        return [certificate.public_bytes(Encoding.DER) for certificate in chain]


def _log_key(connection: SSL.Connection, line: bytes) -> None:
    connection.get_app_data().add(line)


def _common_options(context: SSL.Context) -> None:
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_keylog_callback(_log_key)
    # pyOpenSSL turns partial writes on, which would stop after each record of 16 KB.
    context.clear_mode(_MODE_ENABLE_PARTIAL_WRITE)


class _NoCommonProtocol(Exception):  # noqa: N818  (never seen outside the callback)
    """Raised inside the ALPN callback; pyOpenSSL turns any exception into a fatal alert."""


def _alpn_choice(preferred: tuple[str, ...]) -> Callable[[SSL.Connection, list[bytes]], bytes]:
    protocols = [protocol.encode("ascii") for protocol in preferred]

    def choose(_connection: SSL.Connection, offered: list[bytes]) -> bytes:
        for protocol in protocols:
            if protocol in offered:
                return protocol
        # nginx since 1.21.4 ends such a handshake with no_application_protocol.
        raise _NoCommonProtocol

    return choose


def server_context(
    cert_path: str,
    key_path: str,
    alpn: tuple[str, ...] = HTTP1_ALPN,
    groups: str = tls_groups.AUTO,
) -> SSL.Context:
    """Return a context that looks like nginx with this certificate.

    Args:
        cert_path: A PEM file with the certificate and those that signed it, in order.
        key_path: A PEM file with the private key.
        alpn: The protocols to agree to, best first.
        groups: See `phantom.carriers.tls_groups.groups_for`.

    Raises:
        ConfigurationError: A file cannot be read, is no certificate or key, or the two do
            not belong together.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    _common_options(context)
    tls_groups.set_groups(context, groups)
    context.set_cipher_list(_SERVER_CIPHERS)
    context.set_timeout(_SESSION_TIMEOUT)
    for path, load, key in (
        (cert_path, context.use_certificate_chain_file, "tls_cert"),
        (key_path, context.use_privatekey_file, "tls_key"),
    ):
        try:
            with open(path, "rb") as file:
                file.read(1)
            load(path)
        except OSError as error:
            raise ConfigurationError(
                f"cannot be read: {error.strerror}", file=path, key=key
            ) from None
        except SSL.Error as error:
            # OpenSSL compares the key with the certificate as soon as it has both.
            reason = _reason(error)
            problem = f"is not usable PEM: {reason}"
            if "mismatch" in reason:
                problem = "the key does not belong to the certificate"
            raise ConfigurationError(problem, file=path, key=key) from None
    # nginx: SHA-1 over the certificates; only the length, 20 bytes, shows on the wire.
    context.set_session_id(hashlib.sha1(cert_path.encode(), usedforsecurity=False).digest())
    # Answering the server name, whatever it is, is what nginx's default server does.
    context.set_tlsext_servername_callback(lambda _connection: None)
    context.set_alpn_select_callback(_alpn_choice(alpn))
    return context


def kept_on_failure(load: Callable[[], Any]) -> Any:
    """Return what `load` does.

    Raises:
        ConfigurationError: As `load` does, with word that the certificate in use stays.
    """
    try:
        return load()
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{error.problem}; the certificate in use is kept", file=error.file, key=error.key
        ) from None


class ServerCertificates:
    """The server's certificate and key, replaceable while the server runs.

    Args:
        cert_path: A PEM file with the certificate and those that signed it, in order.
        key_path: A PEM file with the private key.
        alpn: The protocols to agree to, best first.
        groups: See `phantom.carriers.tls_groups.groups_for`.

    Raises:
        ConfigurationError: They cannot be used (see `server_context`).
    """

    def __init__(
        self,
        cert_path: str,
        key_path: str,
        alpn: tuple[str, ...] = HTTP1_ALPN,
        groups: str = tls_groups.AUTO,
    ) -> None:
        self.cert_path = cert_path
        self.key_path = key_path
        self.alpn = alpn
        self.groups = groups
        self._context = self._load()
        # The keys of session tickets live in the context a connection is made with.  All
        # workers of a server share this one, by having been forked (doc/adr/0016), so that a
        # session is resumed whichever of them accepts the connection, as with nginx.
        self._tickets = self._context

    def _load(self) -> Any:
        """Return a new context made from the files."""
        return server_context(self.cert_path, self.key_path, self.alpn, self.groups)

    def reload(self) -> None:
        """Read the files again; connections made from now on get what they hold.

        Raises:
            ConfigurationError: They cannot be used; the ones in force stay.
        """
        self._context = kept_on_failure(self._load)

    def engine(self) -> TLSEngine:
        """Return the server's side of a new connection."""
        engine = OpenSSLEngine(self._tickets, server=True)
        if self._context is not self._tickets:
            engine.use_certificate_of(self._context)
        return engine


class OpenSSLClientEngines:
    """Makes client engines; their hello is OpenSSL's own, not a browser's.

    Args:
        server_name: The name to ask for, or None.
        alpn: The protocols to offer, best first.
    """

    def __init__(self, server_name: str | None, alpn: tuple[str, ...]) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        _common_options(context)
        # `phantom.carriers.verify` judges the certificate, for both engines alike.
        context.set_verify(SSL.VERIFY_NONE)
        if alpn:
            context.set_alpn_protos([protocol.encode("ascii") for protocol in alpn])
        self._context: Any = context
        self._server_name = server_name

    def engine(self) -> OpenSSLEngine:
        """Return the client's side of a new connection."""
        return OpenSSLEngine(self._context, server=False, server_name=self._server_name)
