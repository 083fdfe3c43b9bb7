"""The server's side of TLS: one layer for each connection, with nginx's manners."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IAddress, IProtocolFactory
from twisted.internet.protocol import Factory

from phantom.carriers.tls import SERVER_HANDSHAKE_TIMEOUT, TLSLayer
from phantom.carriers.tls_openssl import ServerCertificates
from phantom.interfaces import StrangerPolicy
from phantom.runtime import Runtime


class TLSServerFactory(Factory):
    """Puts TLS beneath the protocols of another factory.

    Args:
        runtime: Timers.
        certificates: What to show; `ServerCertificates.reload` applies to connections made
            after it.
        inner_factory: Builds the protocols above; they start when TLS is up.
        not_tls: Takes a visitor whose first byte is not TLS (see
            `phantom.carriers.decoy.plain_http_policy`); None leaves it to OpenSSL.
        timeout: Seconds for the handshake.
    """

    noisy = False

    def __init__(
        self,
        runtime: Runtime,
        certificates: ServerCertificates,
        inner_factory: IProtocolFactory,
        *,
        not_tls: StrangerPolicy | None = None,
        timeout: float = SERVER_HANDSHAKE_TIMEOUT,
    ) -> None:
        self._runtime = runtime
        self._certificates = certificates
        self._inner: Any = inner_factory
        self._not_tls = not_tls
        self._timeout = timeout

    def doStart(self) -> None:
        """Start the factory above with this one."""
        self._inner.doStart()

    def doStop(self) -> None:
        """Stop the factory above with this one."""
        self._inner.doStop()

    def buildProtocol(self, addr: IAddress | None) -> TLSLayer | None:
        """Return TLS with the inner factory's protocol above, or None when it has none."""
        upper = self._inner.buildProtocol(addr)
        if upper is None:
            return None
        return TLSLayer(
            self._runtime,
            self._certificates.engine(),
            upper,
            timeout=self._timeout,
            not_tls=self._not_tls,
        )
