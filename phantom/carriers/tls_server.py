"""The server's side of TLS: one layer for each connection, with nginx's manners."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IAddress, IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from phantom.carriers.nginx_site import Answer, SiteDecoy
from phantom.carriers.strangers import Strangers
from phantom.carriers.tls import SERVER_HANDSHAKE_TIMEOUT, TLSLayer
from phantom.carriers.tls_engine import HTTP1_ALPN, ServerEngines
from phantom.carriers.tls_groups import AUTO
from phantom.carriers.tls_openssl import ServerCertificates
from phantom.carriers.tls_utls import UTLSServerCertificates
from phantom.core.nginx_pages import DEFAULT_BANNER
from phantom.core.nginx_request import Request
from phantom.interfaces import Expected, StrangerPolicy
from phantom.runtime import Runtime


def server_engines(
    engine: str,
    cert_path: str,
    key_path: str,
    alpn: tuple[str, ...] = HTTP1_ALPN,
    groups: str = AUTO,
) -> ServerEngines:
    """Return what makes the server's side of TLS.

    Args:
        engine: "openssl" or "boringssl".
        cert_path: A PEM file with the certificate and those that signed it, in order.
        key_path: A PEM file with the private key.
        alpn: The protocols to agree to, best first.
        groups: For OpenSSL; see `phantom.carriers.tls_groups.groups_for`.

    Raises:
        ConfigurationError: The files cannot be used, or the engine is not installed.
    """
    if engine == "boringssl":
        return UTLSServerCertificates(cert_path, key_path, alpn)
    return ServerCertificates(cert_path, key_path, alpn, groups)


class _PlainHTTPSite:
    """nginx's answer to plain HTTP on a TLS port; everything else is the connection's."""

    def __init__(self, banner: Callable[[], str]) -> None:
        self._banner = banner

    @property
    def banner(self) -> str:
        return self._banner()

    def answer(self, request: Request, origin: str) -> Answer | int:
        return 497


def plain_http_policy(
    runtime: Runtime, banner: Callable[[], str] = lambda: DEFAULT_BANNER
) -> StrangerPolicy:
    """Return what answers those who do not speak TLS as nginx does.

    Args:
        runtime: Timers and the time of day.
        banner: The Server header; the decoy's own, so that both say the same.
    """
    return SiteDecoy(runtime, _PlainHTTPSite(banner), https=False, plain_only=True)


class _Handshaking(TLSLayer):
    """A server's layer, which is counted until TLS is up.

    Attributes:
        strangers: Who counts it.
        expected: What is ready for the visitor, until somebody takes that.
    """

    strangers: Strangers
    expected: Expected | None = None

    def connectionMade(self) -> None:
        self.strangers.admit(self)
        super().connectionMade()


class TLSServerFactory(Factory):
    """Puts TLS beneath the protocols of another factory.

    Args:
        runtime: Timers.
        certificates: Makes the engines; its ``reload`` applies to connections made after it.
        inner_factory: Builds the protocols above; they start when TLS is up.
        not_tls: Takes a visitor whose first byte is not TLS; `plain_http_policy` unless
            given.
        timeout: Seconds for the handshake.
        strangers: Bounds the handshakes under way at once; one of its own otherwise.
        early: ``early(layer, alpn)`` prepares for a visitor whose hello was answered.
    """

    noisy = False

    def __init__(
        self,
        runtime: Runtime,
        certificates: ServerEngines,
        inner_factory: IProtocolFactory,
        *,
        not_tls: StrangerPolicy | None = None,
        timeout: float = SERVER_HANDSHAKE_TIMEOUT,
        strangers: Strangers | None = None,
        early: Callable[[Any, str | None], Expected | None] | None = None,
    ) -> None:
        self._runtime = runtime
        self._early = early
        self._certificates = certificates
        self._inner: Any = inner_factory
        self._not_tls = not_tls or plain_http_policy(runtime)
        self._timeout = timeout
        self._strangers = Strangers() if strangers is None else strangers

    def doStart(self) -> None:
        """Start the factory above with this one."""
        self._inner.doStart()

    def doStop(self) -> None:
        """Stop the factory above with this one."""
        self._inner.doStop()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return TLS with the inner factory's protocol above, or None when it has none."""
        upper = self._inner.buildProtocol(addr)
        if upper is None:
            return None

        def answered(alpn: str | None) -> None:
            if self._early is not None:
                layer.expected = self._early(layer, alpn)

        def outcome(_failure: Failure | None) -> None:
            self._strangers.release(layer)
            expected, layer.expected = layer.expected, None
            if expected is not None:
                expected.release()  # there was no handshake, or nobody has taken it

        def not_tls(transport: Any, received: bytes) -> None:
            self._strangers.release(layer)
            self._not_tls(transport, received)

        layer = _Handshaking(
            self._runtime,
            self._certificates.engine(),
            upper,
            timeout=self._timeout,
            not_tls=not_tls,
            answered=answered,
            outcome=outcome,
        )
        layer.strangers = self._strangers
        return layer
