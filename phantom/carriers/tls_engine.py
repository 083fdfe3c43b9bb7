"""What a TLS engine is: TLS as bytes in and bytes out, without a socket.

`phantom.carriers.tls_openssl` and `phantom.carriers.tls_utls` provide one each.
"""

from __future__ import annotations

from typing import Protocol

from phantom.carriers.tls_secrets import TrafficSecrets


class TLSEngine(Protocol):
    """One side of one TLS connection.

    Every method that takes or decrypts received bytes raises
    `phantom.errors.RemoteProtocolError` when the peer broke TLS or sent a fatal alert; the
    engine is then dead, except that `outgoing` still returns the alert to be sent.

    Attributes:
        handshake_done: The handshake is complete: `plaintext`, `send` and `close` may be
            called.
        peer_closed: The peer's close_notify was read, after all its plaintext.
    """

    handshake_done: bool
    peer_closed: bool

    def start(self) -> None:
        """Begin; a client's hello is in `outgoing` afterwards."""
        ...

    def receive(self, data: bytes | memoryview) -> None:
        """Take bytes from the network and go on with the handshake, if it still runs.

        Args:
            data: Lent, if it is a view, until `end_loan`.
        """
        ...

    def end_loan(self) -> None:
        """Copy what of the view last received is not decrypted yet: its memory may change now."""
        ...

    def plaintext(self, limit: int) -> bytes | memoryview:
        """Return up to about `limit` decrypted bytes (five TLS records more at most).

        Returns:
            Nothing, when nothing is left to decrypt or the peer has closed.  A view is lent: it
            is valid until any engine is asked for more.
        """
        ...

    def send(self, data: bytes | memoryview) -> None:
        """Encrypt all of `data` into `outgoing`; no limit, no copy kept.

        What comes out may lie in memory that all engines share: ask for it before another one is
        asked for anything.
        """
        ...

    def close(self) -> None:
        """Put a close_notify into `outgoing`: no more `send`; receiving goes on."""
        ...

    def outgoing(self) -> bytes:
        """Return, and forget, every byte that is to go to the network."""
        ...

    def outgoing_lent(self) -> bytes | memoryview:
        """As `outgoing`, in memory that is lent until any engine is asked again: see `kept`."""
        ...

    def kept(self) -> None:
        """Note that somebody keeps what `outgoing_lent` has returned."""
        ...

    @property
    def alpn(self) -> str | None:
        """The application protocol agreed on (RFC 7301), or None."""
        ...

    def secrets(self) -> TrafficSecrets | None:
        """Return the keys of application data, once the handshake is done.

        Returns:
            None if the library does not tell them, or it is not TLS 1.3.
        """
        ...

    def peer_chain(self) -> list[bytes]:
        """Return the certificates the peer sent, in DER, its own first; unverified."""
        ...


class ServerEngines(Protocol):
    """Makes server engines that show one certificate, replaceable while the server runs."""

    def engine(self) -> TLSEngine:
        """Return the server's side of a new connection."""
        ...

    def reload(self) -> None:
        """Read the certificate and its key again, for connections made from now on.

        Raises:
            ConfigurationError: They cannot be used; the ones in force stay.
        """
        ...


#: The protocols nginx agrees to without HTTP/2, in its order (ngx_http.h,
#: NGX_HTTP_ALPN_PROTOS).
HTTP1_ALPN = ("http/1.1", "http/1.0", "http/0.9")

#: The same with HTTP/2 (ngx_http_ssl_module.c puts it first).
H2_ALPN = ("h2", *HTTP1_ALPN)
