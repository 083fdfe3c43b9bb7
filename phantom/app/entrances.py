"""What serves each listening socket of a server: bare TCP, TLS, or a front that has ended TLS."""

from __future__ import annotations

from typing import Any

from phantom.app.connecting import post_quantum_policy
from phantom.app.descriptors import raise_descriptor_limit
from phantom.app.shaping import server_shaping
from phantom.app.share import Share
from phantom.app.strangers import Reception, reception
from phantom.carriers.congestion import LinkSockets
from phantom.carriers.decoy import Guests
from phantom.carriers.drain import SilentDrain
from phantom.carriers.proxy_protocol import H2, HTTP1, Front, ProxyProtocolFactory
from phantom.carriers.strangers import Strangers
from phantom.carriers.tls_engine import ServerEngines
from phantom.carriers.tls_server import TLSServerFactory
from phantom.config.schema_server import ServerConfig
from phantom.core.admission import PREFIX_SHARE, Admission, place_limits
from phantom.core.handshake import INSTANCE_SIZE, Mode
from phantom.inbound.tunnel import Gate, TunnelFactory
from phantom.runtime import Runtime
from phantom.telemetry import Meters
from phantom.tunnel.post_quantum import ServerSecrets
from phantom.tunnel.registry import SessionRegistry


class Entrances:
    """The ways into a server, which share its limits on visitors.

    Args:
        runtime: The outside world.
        config: The settings, with this process's part of the limits.
        registry: The sessions.
        gate: Who may enter.
        certificates: Makes TLS for ``listen``; None without.
        meters: Counts visitors.
        share: What a worker process is given; None where this process is the whole server.
    """

    def __init__(
        self,
        runtime: Runtime,
        config: ServerConfig,
        registry: SessionRegistry,
        gate: Gate,
        certificates: ServerEngines | None,
        meters: Meters,
        share: Share | None,
    ) -> None:
        self._runtime = runtime
        self._config = config
        self._registry = registry
        self._gate = gate
        self._certificates = certificates
        self._meters = meters
        self._siblings = None if share is None else share.siblings
        places = place_limits(raise_descriptor_limit())
        if share is not None:
            places = share.part(places[0]), share.part(places[1])
        self._places = places
        self._drain = SilentDrain(runtime, *places)
        undecided = min(config.max_unauthenticated, places[0])
        self._admission = Admission(undecided, max(1, undecided // PREFIX_SHARE))
        self._secrets = ServerSecrets() if share is None else share.secrets
        # By which a client knows the process that has its session, whichever way it comes.
        self._instance = runtime.entropy(INSTANCE_SIZE) if share is None else share.instance
        self._reception: Reception | None = None
        if certificates is not None or config.has_front:
            self._reception = reception(runtime, config, places)

    @property
    def guests(self) -> Guests | None:
        """Who receives strangers inside TLS; None where no entrance has any."""
        return None if self._reception is None else self._reception.in_tls

    def factories(self) -> list[Any]:
        """Return a factory for each socket: those of ``listen``, then those of fronts."""
        config = self._config
        found = []
        if config.listen:
            found += [self._own()] * len(config.listen)
        for alpn, addresses in ((HTTP1, config.front_listen), (H2, config.front_listen_h2)):
            if addresses:
                found += [self._behind_front(alpn)] * len(addresses)
        return found

    def _own(self) -> Any:
        factory: Any = self._tunnel(self.guests if self._certificates is not None else None)
        if self._certificates is not None:
            assert self._reception is not None
            factory = TLSServerFactory(
                self._runtime,
                self._certificates,
                factory,
                not_tls=self._reception.not_tls,
                strangers=Strangers(*self._places),
                early=self._reception.in_tls.expect_early,
            )
        if self._config.trusted_proxies:
            trusted = self._config.trusted_proxies
            factory = ProxyProtocolFactory(self._runtime, factory, trusted)
        return factory

    def _behind_front(self, alpn: str) -> Any:
        front = Front(alpn=alpn, h2=self._config.decoy_h2c is not None)
        return ProxyProtocolFactory(
            self._runtime,
            self._tunnel(self.guests),
            self._config.trusted_proxies,
            front=front,
        )

    def _tunnel(self, guests: Guests | None) -> TunnelFactory:
        """Return what builds links; with `guests` they open as HTTP, as inside TLS."""
        config, share = self._config, self._siblings
        return TunnelFactory(
            self._runtime,
            self._registry,
            self._gate,
            private_key=config.private_key.raw,
            public_key=config.private_key.public().raw,
            mode=Mode.BARE if guests is None else Mode.TLS_HTTP1,
            stranger=self._drain if guests is None else guests,
            expect=None if guests is None else guests.expect,
            drain=self._drain,
            handshake_timeout=config.handshake_timeout,
            keepalive=config.keepalive,
            admission=self._admission,
            meters=self._meters,
            post_quantum=post_quantum_policy(config.post_quantum),
            secrets=self._secrets,
            instance=self._instance,
            junction=None if share is None else share.junction,
            sockets=LinkSockets(self._runtime, config.congestion),
            shaping=server_shaping(config),
        )
