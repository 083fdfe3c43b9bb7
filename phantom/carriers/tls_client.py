"""The client's endpoint for TLS: connected means that the handshake is done and verified."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from phantom.carriers import tls_utls
from phantom.carriers.tls import TLSLayer
from phantom.carriers.tls_engine import TLSEngine
from phantom.carriers.tls_openssl import OpenSSLClientEngines
from phantom.carriers.verify import PeerVerifier
from phantom.core.browser_profiles import age_warning
from phantom.errors import ConfigurationError, HandshakeError, RemoteProtocolError
from phantom.runtime import Runtime
from phantom.telemetry import make_logger

log = make_logger()

#: Seconds for the client's handshake.  Three round trips at 1 s each and a lost packet's
#: retransmissions fit; a path that takes longer had better be tried anew.
CLIENT_HANDSHAKE_TIMEOUT = 15.0

_told_of_fallback = False


@attrs.frozen(slots=True, kw_only=True)
class TLSClientSettings:
    """How the client does TLS.

    Attributes:
        sni: The name sent and expected in the certificate; an IP address is expected but
            never sent (RFC 6066, section 3).
        profile: Whose hello to send, see `phantom.core.browser_profiles.parse_profile`.
        ca_file: A PEM file with trust anchors besides the system's.
        pin: SHA-256 of the server's SubjectPublicKeyInfo; replaces every other check.
        alpn: The protocols to offer, best first.
        ech: An ECHConfigList: the true name goes encrypted, and the one in the list in clear.
    """

    sni: str
    profile: str = "chrome"
    ca_file: str | None = None
    pin: bytes | None = None
    alpn: tuple[str, ...] = ("h2", "http/1.1")
    ech: bytes | None = None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _client_engines(
    settings: TLSClientSettings,
) -> OpenSSLClientEngines | tls_utls.UTLSClientEngines:
    global _told_of_fallback
    server_name = None if _is_address(settings.sni) else settings.sni
    if tls_utls.AVAILABLE:
        return tls_utls.UTLSClientEngines(
            server_name, settings.alpn, settings.profile, settings.ech
        )
    if settings.ech is not None:
        raise ConfigurationError(
            "needs the package utls", key="client.tls_ech", fix="pip install 'phantom[utls]'"
        )
    if not _told_of_fallback:
        _told_of_fallback = True
        log.warn(
            "the TLS hello is OpenSSL's and can be told from a browser's; "
            "pip install 'phantom[utls]' mends that"
        )
    return OpenSSLClientEngines(server_name, settings.alpn)


def profile_warning(profile: str, now: float) -> str | None:
    """Return what to tell about the age of a profile; None when there is nothing.

    Args:
        profile: See `TLSClientSettings`.
        now: Seconds since the Unix epoch.

    Raises:
        ConfigurationError: There is no such profile.
    """
    return age_warning(tls_utls.preset_of(profile), now) if tls_utls.AVAILABLE else None


class _ClientFactory(Factory):
    """Puts TLS beneath the protocols of another factory; one for each attempt.

    Attributes:
        layer: What was built, once the connection below stood.
    """

    noisy = False

    def __init__(
        self,
        build_layer: Callable[[Any], TLSLayer],
        inner: Any,
    ) -> None:
        self._build_layer = build_layer
        self._inner = inner
        self.layer: TLSLayer | None = None

    def doStart(self) -> None:
        self._inner.doStart()

    def doStop(self) -> None:
        self._inner.doStop()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        upper = self._inner.buildProtocol(addr)
        if upper is None:
            return None
        self.layer = self._build_layer(upper)
        return self.layer


@implementer(IStreamClientEndpoint)
class TLSClientEndpoint:
    """Connects through another endpoint and speaks TLS over it.

    Args:
        runtime: Timers and the time of day.
        inner: Makes the connection below.
        settings: How to do TLS.
        timeout: Seconds for the handshake.

    Raises:
        ConfigurationError: The settings name a profile or a file that cannot be used.
    """

    def __init__(
        self,
        runtime: Runtime,
        inner: IStreamClientEndpoint,
        settings: TLSClientSettings,
        *,
        timeout: float = CLIENT_HANDSHAKE_TIMEOUT,
    ) -> None:
        self._runtime = runtime
        self._inner = inner
        self._timeout = timeout
        self._engines = _client_engines(settings)
        self._verifier = PeerVerifier(settings.sni, settings.ca_file, settings.pin)

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        """Connect and shake hands.

        Returns:
            A Deferred of the factory's protocol, which has been started over TLS by then.
            It fails with `HandshakeError` when TLS does, with a text that says what to do;
            otherwise with what the endpoint below failed with.  Cancelling gives up.
        """

        def cancel(_done: Deferred[Any]) -> None:
            connecting.cancel()
            if wrapper.layer is not None and wrapper.layer.transport is not None:
                wrapper.layer.abortConnection()

        done: Deferred[Any] = Deferred(cancel)

        def build_layer(upper: Any) -> TLSLayer:
            def outcome(failure: Failure | None) -> None:
                if done.called:
                    return
                if failure is None:
                    done.callback(upper)
                else:
                    done.errback(_explained(failure))

            return TLSLayer(
                self._runtime,
                self._engines.engine(),
                upper,
                timeout=self._timeout,
                verify=self._verify,
                outcome=outcome,
            )

        def failed(failure: Failure) -> None:
            if not done.called:
                done.errback(failure)

        wrapper = _ClientFactory(build_layer, factory)
        # When this succeeds, the handshake has only begun: the layer reports the outcome.
        connecting = self._inner.connect(wrapper)
        connecting.addErrback(failed)
        return done

    def _verify(self, engine: TLSEngine) -> None:
        self._verifier.verify(engine.peer_chain(), self._runtime.wall_time())


def _explained(failure: Failure) -> Failure:
    """Turn the end of a handshake into a `HandshakeError` that says what to do."""
    error = failure.value
    if isinstance(error, RemoteProtocolError):
        text = f"TLS failed: {error.args[0]}; is it TLS at the other end, and the right port?"
    elif isinstance(error, HandshakeError):
        return failure
    else:
        text = (
            "the connection ended during the TLS handshake; is it TLS at the other end, and "
            "the right port?"
        )
    return Failure(HandshakeError(text))
