"""The server as a service: links in, connections to destinations out."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred

from phantom.app.entrances import Entrances
from phantom.app.listening import ListeningService, address_text, bind
from phantom.app.options import PluginOptions, apply_log_level, configured
from phantom.app.process import prepare_process
from phantom.app.share import Share
from phantom.app.stopping import hurry_at_second_signal, sockets_closed
from phantom.carriers.tls_engine import H2_ALPN, HTTP1_ALPN, ServerEngines
from phantom.carriers.tls_server import server_engines
from phantom.config.announced import announced_list
from phantom.config.load import load_server
from phantom.config.schema import ServerFile
from phantom.config.schema_server import ServerConfig
from phantom.core.detached import DetachedLimits
from phantom.core.egress import EgressPolicy
from phantom.core.endpoint_list import EndpointList
from phantom.core.limits import Limits
from phantom.crypto.identity import sign
from phantom.errors import ConfigurationError
from phantom.inbound.tunnel import Gate, stream_acceptor
from phantom.outbound.direct import DirectOutbound
from phantom.outbound.own_addresses import own_addresses
from phantom.runtime import Runtime, system_runtime
from phantom.telemetry import Meters, make_logger
from phantom.tunnel.mux import MuxLimits
from phantom.tunnel.registry import SessionRegistry
from phantom.tunnel.replay_file import ReplayFile, boot_epoch

log = make_logger()


class Options(PluginOptions):
    """Options of ``twistd phantom-server``."""

    synopsis = "--config FILE [--log-level LEVEL]"
    longdesc = (
        "Accept phantom clients and relay their connections. SIGHUP reloads the list of "
        "clients, the egress rules and the TLS certificate without dropping a stream."
    )


def makeService(options: Any) -> Service:
    """Return the server's service; called by twistd."""
    from twisted.internet import reactor

    def make() -> Service:
        prepare_process(reactor)
        path = options["config"]
        if path is None:
            raise ConfigurationError(
                "which configuration?",
                key="--config",
                fix="twistd phantom-server --config FILE; `phantom init server` writes one",
            )
        # Resolved now: twistd changes the directory when it daemonises.
        path = str(Path(path).absolute())
        file = load_server(path)
        apply_log_level(options, file.logging)
        runtime = system_runtime(reactor)
        if file.server.workers > 1:
            from phantom.app.workers import WorkersService

            return WorkersService(runtime, file.server, lambda: load_server(path))
        return ServerService(runtime, file.server, lambda: load_server(path))

    return configured(make)


class ServerService(MultiService):
    """Everything of a server.  Its ports are bound when it is made.

    Args:
        runtime: The outside world.
        config: The settings.
        reload: Reads the file again for `reload`; None without a file.
        share: What a worker process is given; None where this process is the whole server.

    Attributes:
        registry: The sessions.
        addresses: Where it listens.
        meters: What was counted.

    Raises:
        ConfigurationError: A port cannot be bound, or a file not be used.
    """

    def __init__(
        self,
        runtime: Runtime,
        config: ServerConfig,
        reload: Callable[[], ServerFile] | None = None,
        share: Share | None = None,
    ) -> None:
        super().__init__()
        self._runtime = runtime
        self._share = share
        self._siblings = None if share is None else share.siblings
        if share is not None:
            config = share.limits(config)
        self._config = config
        self._reload = reload
        self.meters = Meters()
        self._certificates = certificates(config) if share is None else share.certificates
        self._outbound = DirectOutbound(
            runtime,
            _policy(config),
            connect_timeout=config.connect_timeout,
            resolve_timeout=config.resolve_timeout,
            connections=Limits(config.max_connections, config.max_connections_per_client),
        )
        self._announced = _announced(config, config)
        self.registry = SessionRegistry(
            runtime,
            MuxLimits(
                max_streams=config.max_streams,
                session_memory=config.session_memory,
                window=config.window,
            ),
            max_links=config.max_links_per_client,
            acceptor=stream_acceptor(self._outbound.for_client, runtime),
            attach_timeout=config.handshake_timeout,
            detached=DetachedLimits(
                timeout=config.detached_timeout,
                memory_per_client=config.detached_memory_per_client,
                memory=config.detached_memory,
            ),
            meters=self.meters,
            endpoints=_signed(runtime, self._announced, config),
            scheme=b"" if config.padding_scheme is None else config.padding_scheme.encode(),
            others=self._siblings,
        )
        self._replay = replay_file(runtime, config, -1 if share is None else share.replay)
        self._gate = Gate(_allowed(config), self._replay, runtime, self.meters)
        entrances = Entrances(
            runtime,
            config,
            self.registry,
            self._gate,
            self._certificates,
            self.meters,
            share,
        )
        self._guests = entrances.guests
        self.addresses: list[tuple[Any, ...]] = []
        bound = listeners(config) if share is None else share.listeners
        for listener, factory in zip(bound, entrances.factories(), strict=True):
            self.addresses.append(listener.getsockname())
            ListeningService(runtime, listener, factory).setServiceParent(self)

    def startService(self) -> None:
        """Accept links from now on, and reload on SIGHUP."""
        if self._siblings is not None:
            self._siblings.start(self.registry)
        super().startService()
        if self._guests is not None:
            self._guests.learn()
        if self._share is not None:
            return  # signals and what the operator is told are the parent's
        if not self._config.allowed_clients:
            log.warn("allowed_clients is empty: nobody can connect")
        if self._reload is not None and hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, self._hangup)
        log.info(
            "listening on {addresses} for {count} clients",
            addresses=", ".join(address_text(a) for a in self.addresses),
            count=len(self._gate.allowed),
        )

    def _hangup(self, _signal: int, _frame: Any) -> None:
        # A handler runs between any two instructions: it only schedules.
        self._runtime.reactor.callFromThread(self.reload)

    def reload(self) -> None:
        """Read clients, egress rules and certificate again; live streams go on.

        Everything is validated before anything is swapped.  A mistake is logged, and all
        settings stay as they are.
        """
        if self._reload is None:
            return
        try:
            config = self._reload().server
        except ConfigurationError as error:
            log.error("not reloaded, everything stays as it was: {error}", error=str(error))
            return
        policy = _policy(config)
        allowed = _allowed(config)
        if self._certificates is not None:
            try:
                self._certificates.reload()
            except ConfigurationError as error:
                log.error("{error}", error=str(error))
        self._outbound.policy = policy
        self._gate.allowed = allowed
        self._announce(config)
        self.registry.revoke(lambda key: key in allowed)
        log.info("reloaded; {count} clients allowed", count=len(allowed))

    def _announce(self, config: ServerConfig) -> None:
        """Push the list of endpoints if it has changed."""
        old, new = self._announced, _announced(config, self._config)
        if new == old:
            return
        if old is not None and new is not None and new.version <= old.version:
            log.error(
                "endpoints have changed and endpoints_version has not been raised: clients "
                "would refuse the list, and keep the old one"
            )
            return
        self._announced = new
        self.registry.announce(_signed(self._runtime, new, config))

    async def _stop(self) -> None:
        await super().stopService()
        if self._reload is not None and self._share is None:  # not part of another program
            hurry_at_second_signal(self._runtime, self.hurry)
        await self.registry.shut_down(self._config.drain_timeout)
        if self._siblings is not None:
            # Sessions of the others drain by links of this process.
            timer = self._runtime.call_later(self._config.drain_timeout, self._siblings.hurry)
            await self._siblings.when_quiet()
            if timer.active():
                timer.cancel()
            await maybeDeferred(self._siblings.stop)
        await sockets_closed(self._runtime)
        self._replay.close()

    def discard(self) -> None:
        """Let go of the files of a service that is not started."""
        self._replay.close()

    def hurry(self) -> None:
        """End at once what `stopService` waits for."""
        self.registry.hurry()
        if self._siblings is not None:
            self._siblings.hurry()

    def stopService(self) -> Deferred[None]:
        """Accept no more, tell the clients, let streams finish, end the rest."""
        return Deferred.fromCoroutine(self._stop())


def _announced(config: ServerConfig, running: ServerConfig) -> EndpointList | None:
    """Return the list of endpoints that `config` asks for, not dated; None without one.

    Args:
        config: The settings as read last.
        running: Those in effect: a reload changes neither the host's key nor its carrier.
    """
    if not config.endpoints or config.endpoints_version is None:
        return None
    tls = running.tls_cert is not None or running.has_front
    own_key = running.private_key.public()
    return announced_list(config.endpoints, config.endpoints_version, 0, own_key, tls)


def _signed(runtime: Runtime, endpoints: EndpointList | None, config: ServerConfig) -> bytes:
    """Return the signed list of endpoints to push; nothing when there is none."""
    if endpoints is None or config.identity_key is None:
        return b""
    dated = attrs.evolve(endpoints, issued=int(runtime.wall_time()))
    return sign(dated, config.identity_key.raw)


def _policy(config: ServerConfig) -> EgressPolicy:
    return EgressPolicy(config.egress.allow, config.egress.deny, own_addresses())


def _allowed(config: ServerConfig) -> frozenset[bytes]:
    return frozenset(client.key.raw for client in config.allowed_clients)


def listeners(config: ServerConfig) -> tuple[socket.socket, ...]:
    """Bind every port of the configuration, in the order of `Entrances.factories`.

    Raises:
        ConfigurationError: One cannot be bound.
    """
    return tuple(
        bind(address, f"server.{name}")
        for name in ("listen", "front_listen", "front_listen_h2")
        for address in getattr(config, name)
    )


def certificates(config: ServerConfig) -> ServerEngines | None:
    """Read the certificate that the configuration names; None without TLS.

    Raises:
        ConfigurationError: It cannot be used.
    """
    if config.tls_cert is None:
        return None
    alpn = HTTP1_ALPN if config.decoy_h2c is None else H2_ALPN
    return server_engines(
        config.tls_engine, str(config.tls_cert), str(config.tls_key), alpn, config.tls_groups
    )


def replay_file(runtime: Runtime, config: ServerConfig, inherited: int = -1) -> ReplayFile:
    """Open the replay filter's file, in a folder that is made when missing.

    Args:
        runtime: Entropy and wall time.
        config: Names the folder.
        inherited: The parent's descriptor of the file, in a worker.

    Raises:
        ConfigurationError: The folder cannot be made.
    """
    try:
        if inherited < 0:
            config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"cannot make the folder {config.state_dir}: {error.strerror}",
            key="server.state_dir",
            fix="make it, or name another; it must belong to the user the server runs as",
        ) from None
    now = runtime.wall_time()
    return ReplayFile(
        config.state_dir, runtime.entropy, now, epoch=boot_epoch(), inherited=inherited
    )
