"""The client as a service: proxies in front, the tunnel behind."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred

from phantom.app.connecting import choose_cipher, connector, known_endpoints
from phantom.app.descriptors import raise_descriptor_limit
from phantom.app.listening import ListeningService, address_text, bind
from phantom.app.options import PluginOptions, apply_log_level, configured
from phantom.app.process import prepare_process
from phantom.app.shaping import scheme_memory
from phantom.app.stopping import hurry_at_second_signal, sockets_closed
from phantom.carriers.tls_client import profile_warning
from phantom.config.load import load_client
from phantom.config.schema_client import ClientConfig
from phantom.config.values import ListenAddress
from phantom.inbound import http as http_inbound
from phantom.inbound import socks5 as socks5_inbound
from phantom.inbound.http import HttpProxyFactory
from phantom.inbound.shared import SharedPortFactory
from phantom.inbound.socks5 import Socks5Factory
from phantom.outbound.tunnel import TunnelOutbound
from phantom.runtime import Runtime, system_runtime
from phantom.telemetry import Meters, make_logger
from phantom.tunnel.dialer import Dialer
from phantom.tunnel.dialer_settings import DialerSettings
from phantom.tunnel.mux import MuxLimits

log = make_logger()


class Options(PluginOptions):
    """Options of ``twistd phantom-client``."""

    synopsis = "[--config FILE] [--log-level LEVEL]"
    longdesc = (
        "Offer a SOCKS5 and an HTTP proxy on this machine; what applications send there "
        "leaves at the phantom server. Without --config the file is looked for where the "
        "platform keeps configuration, for example ~/.config/phantom/client.toml."
    )


def makeService(options: Any) -> Service:
    """Return the client's service; called by twistd."""
    from twisted.internet import reactor

    def make() -> Service:
        prepare_process(reactor)
        file = load_client(options["config"])
        apply_log_level(options, file.logging)
        return ClientService(system_runtime(reactor), file.client, own_program=True)

    return configured(make)


def make_tunnel(
    runtime: Runtime, config: ClientConfig, meters: Meters
) -> tuple[Dialer, TunnelOutbound]:
    """Return the tunnel without any proxy before it; the caller starts and stops the dialer.

    Args:
        runtime: The outside world.
        config: The settings; its listening addresses are not used.
        meters: Counts links.
    """
    schemes = scheme_memory(config)
    settings = DialerSettings(
        limits=MuxLimits(
            max_streams=config.max_streams,
            session_memory=config.session_memory,
            window=config.window,
        ),
        keepalive=config.keepalive,
        drain_timeout=config.drain_timeout,
        detached_timeout=config.detached_timeout,
        link_max_age=config.link_max_age,
        on_scheme=schemes.learn,
        lanes=config.lanes,
    )
    known = known_endpoints(runtime, config, meters)
    dialer = Dialer(runtime, known, connector(runtime, config, schemes), settings, meters)
    outbound = TunnelOutbound(
        runtime, dialer, early_reply=config.early_reply, link_wait=config.link_wait
    )
    return dialer, outbound


class ClientService(MultiService):
    """Everything of a client.  Its ports are bound when it is made.

    Args:
        runtime: The outside world.
        config: The settings.
        own_program: Whether the process is this client and nothing else, so that signals
            are its own.

    Attributes:
        dialer: Keeps the link.
        socks5_address: Where the SOCKS5 proxy listens, None without.
        http_address: Where the HTTP proxy listens, None without.
        meters: What was counted.

    Raises:
        ConfigurationError: A port cannot be bound.
    """

    def __init__(
        self, runtime: Runtime, config: ClientConfig, *, own_program: bool = False
    ) -> None:
        super().__init__()
        self._own_program = own_program
        raise_descriptor_limit()
        self._runtime = runtime
        self.meters = Meters()
        self.cipher = choose_cipher(config.cipher)
        self._config = config
        self.dialer, outbound = make_tunnel(runtime, config, self.meters)
        self.socks5_address: tuple[Any, ...] | None = None
        self.http_address: tuple[Any, ...] | None = None
        self._abort_waiting: list[Callable[[], None]] = []
        self._listen(runtime, outbound)

    def _listen(self, runtime: Runtime, outbound: TunnelOutbound) -> None:
        config = self._config
        credentials: Mapping[str, str] | None = {
            name: password.reveal() for name, password in config.proxy_users.items()
        } or None
        sockets: list[socket.socket] = []

        def listener(address: ListenAddress, key: str) -> socket.socket:
            sockets.append(bind(address, key))
            return sockets[-1]

        try:
            socks5 = http = None
            if config.socks5_listen is not None:
                socks5 = listener(config.socks5_listen, "client.socks5_listen")
                self.socks5_address = socks5.getsockname()
            shared = (
                config.http_listen is not None
                and config.http_listen == config.socks5_listen
                and config.http_listen.port != 0  # two free ports are two
            )
            if config.http_listen is not None:
                http = socks5 if shared else listener(config.http_listen, "client.http_listen")
            if http is not None:
                self.http_address = http.getsockname()
        except BaseException:
            for bound in sockets:
                bound.close()
            raise
        # A stream more than there may be is refused with an answer: what applications open must
        # reach that limit before the one of connections, which closes them without a word.
        most = 2 * config.max_streams
        socks_factory = Socks5Factory(
            runtime,
            outbound,
            credentials,
            greeting_timeout=config.greeting_timeout,
            max_connections=max(socks5_inbound.DEFAULT_MAX_CONNECTIONS, most),
        )
        self._abort_waiting.append(socks_factory.abort_waiting)
        http_factory = HttpProxyFactory(
            runtime,
            outbound,
            credentials,
            greeting_timeout=config.greeting_timeout,
            socks_address=address_text(self.socks5_address) if self.socks5_address else None,
            max_connections=max(http_inbound.DEFAULT_MAX_CONNECTIONS, most),
        )
        self._abort_waiting.append(http_factory.abort_waiting)
        if socks5 is not None and shared:
            factory = SharedPortFactory(
                socks_factory, http_factory, runtime, greeting_timeout=config.greeting_timeout
            )
            self._abort_waiting.append(factory.abort_silent)
            ListeningService(runtime, socks5, factory).setServiceParent(self)
            return
        if socks5 is not None:
            ListeningService(runtime, socks5, socks_factory).setServiceParent(self)
        if http is not None:
            ListeningService(runtime, http, http_factory).setServiceParent(self)

    def startService(self) -> None:
        """Open the proxies and dial."""
        super().startService()
        self.dialer.start()
        log.info(
            "SOCKS5 proxy on {socks5}, HTTP proxy on {http}",
            socks5=address_text(self.socks5_address),
            http=address_text(self.http_address),
        )
        if self._config.tls_sni is not None:
            warning = profile_warning(self._config.tls_profile, self._runtime.wall_time())
            if warning is not None:
                log.warn("{warning}", warning=warning)

    async def _stop(self) -> None:
        # Accept no more first, so that nothing new arrives while the streams drain.
        await super().stopService()
        if self._own_program:
            hurry_at_second_signal(self._runtime, self.dialer.hurry)
        await self.dialer.stop()
        # Idle connections, and those that the stop of the tunnel has just given an answer.
        for abort in self._abort_waiting:
            abort()
        await sockets_closed(self._runtime)

    def stopService(self) -> Deferred[None]:
        """Close the proxies, let streams finish for a moment, close the link."""
        return Deferred.fromCoroutine(self._stop())
