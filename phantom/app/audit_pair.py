"""The server and the clients that an audit watches: real ones, on loopback."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address
from pathlib import Path

import attrs
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, fail, succeed

from phantom.address import Destination
from phantom.app.client import ClientService
from phantom.app.connecting import connector
from phantom.app.demo import NAME, key_text, make_certificate, write_private
from phantom.app.server import ServerService
from phantom.audit.site import NAMES
from phantom.config.keys import PrivateKey
from phantom.config.load import load_client, load_server
from phantom.config.schema_client import ClientConfig
from phantom.config.schema_server import ServerConfig
from phantom.config.values import ListenAddress, TLSPin, UnixSocket
from phantom.core.egress import EgressRule
from phantom.core.endpoint_list import Carrier, ServerEndpoint
from phantom.errors import HandshakeError
from phantom.runtime import IPAddress, Runtime
from phantom.tunnel.attempt import Attempt
from phantom.tunnel.frame import FrameProtocol

_LOOPBACK = IPv4Address("127.0.0.1")
#: Seconds a client may take to have its link.
_PATIENCE = 20.0

_SERVER = """\
[server]
listen = "127.0.0.1:0"
private_key = "{server_key}"
allowed_clients = ["{client_public}"]
state_dir = "state"
"""
#: What `make_certificate` writes.
CERTIFICATE, KEY = "cert.pem", "key.pem"
_SERVER_TLS = f'tls_cert = "{CERTIFICATE}"\ntls_key = "{KEY}"\n'
_CLIENT = """\
[client]
server = "127.0.0.1:1"
server_public_key = "{server_public}"
private_key = "{client_key}"
"""
_CLIENT_TLS = 'tls_sni = "{name}"\ntls_pin = "sha256/{pin}"\n'


def for_front(
    runtime: Runtime, folder: Path, pair: tuple[ServerConfig, ClientConfig]
) -> tuple[ServerConfig, ClientConfig]:
    """Return settings for a front with a certificate that is made here.

    Args:
        runtime: Entropy and the date.
        folder: Gets `CERTIFICATE` and `KEY`.
        pair: A server without TLS of its own, and its client.
    """
    server, client = pair
    pin = TLSPin.parse(f"sha256/{make_certificate(folder, runtime.wall_time())}")
    name = client.tls_sni or NAME
    return server, attrs.evolve(client, tls_sni=name, tls_pin=pin, tls_ca=None)


def fresh_pair(runtime: Runtime, folder: Path, *, tls: bool) -> tuple[ServerConfig, ClientConfig]:
    """Return settings with fresh keys, as `phantom demo` makes them.

    Args:
        runtime: Entropy and the date.
        folder: For the files.
        tls: Whether links go through TLS; its certificate is made, too.
    """
    server_key = PrivateKey.generate(runtime.entropy)
    client_key = PrivateKey.generate(runtime.entropy)
    server, client = _SERVER, _CLIENT
    pin = ""
    if tls:
        pin = make_certificate(folder, runtime.wall_time())
        server, client = server + _SERVER_TLS, client + _CLIENT_TLS
    server = server.format(server_key=key_text(server_key), client_public=client_key.public())
    client = client.format(
        server_public=server_key.public(), client_key=key_text(client_key), name=NAME, pin=pin
    )
    return (
        load_server(write_private(folder / "server.toml", server)).server,
        load_client(write_private(folder / "client.toml", client)).client,
    )


class Pair:
    """A server of its own, and clients for it.

    Everything is as the settings have it, except where things are: all on loopback, state in
    a folder of the audit's, nothing announced that would lead elsewhere, and no names but the
    site's.

    Args:
        runtime: The outside world.
        folder: For the server's and the clients' state.
        server: The server's settings.
        client: A client's settings.
        site_port: What clients may reach on 127.0.0.1.
        decoy: Replace the server's decoys, HTTP/1 and HTTP/2, unless None.
        keepalive: Replaces both sides' unless None.
        front: Whether a front is to end TLS before the server; see `sockets` and `behind`.

    Raises:
        ConfigurationError: A port cannot be bound, or a file not be used.
    """

    def __init__(
        self,
        runtime: Runtime,
        folder: Path,
        server: ServerConfig,
        client: ClientConfig,
        site_port: int,
        *,
        decoy: tuple[Destination, Destination] | None = None,
        keepalive: float | None = None,
        front: bool = False,
    ) -> None:
        self._runtime = attrs.evolve(runtime, resolve=_resolve)
        self._front: int | None = None
        egress = server.egress
        allowed = (*egress.allow, EgressRule.parse(f"127.0.0.1:{site_port}"))
        self._server_config = attrs.evolve(
            server,
            listen=(ListenAddress(_LOOPBACK, 0),),
            front_listen=(),
            front_listen_h2=(),
            state_dir=folder / "server",
            egress=attrs.evolve(egress, allow=allowed),
            endpoints=(),
            endpoints_version=None,
            trusted_proxies=(),
            decoy=server.decoy if decoy is None else decoy[0],
            decoy_h2c=server.decoy_h2c if decoy is None else decoy[1],
            keepalive=server.keepalive if keepalive is None else keepalive,
        )
        self._client_config = attrs.evolve(
            client,
            state_dir=folder / "client",
            server_identity=None,
            socks5_listen=ListenAddress(_LOOPBACK, 0),
            http_listen=None,
            proxy_users={},
            keepalive=client.keepalive if keepalive is None else keepalive,
        )
        if front:
            self._server_config = _behind_front(self._server_config, folder)
        self._server = ServerService(self._runtime, self._server_config)

    @property
    def sockets(self) -> tuple[Path, Path | None]:
        """Where a front is to connect, for HTTP/1.1 and for HTTP/2."""
        paths = [Path(address) for address in map(str, self._server.addresses)]
        return paths[0], paths[1] if len(paths) > 1 else None

    def behind(self, port: int) -> None:
        """Be reached by the port of a front from now on."""
        self._front = port

    @property
    def port(self) -> int:
        """The server's port on 127.0.0.1, or that of the front before it."""
        if self._front is not None:
            return self._front
        port: int = self._server.addresses[0][1]
        return port

    def start(self) -> None:
        """Start the server."""
        self._server.startService()

    async def stop(self) -> None:
        """Stop the server."""
        if self._server.running:
            await self._server.stopService()

    async def restart(self) -> None:
        """Stop the server and start another one in its place, with the same state."""
        listen = (ListenAddress(_LOOPBACK, self.port),)
        await self.stop()
        if self._front is None:
            self._server_config = attrs.evolve(self._server_config, listen=listen)
        self._server = ServerService(self._runtime, self._server_config)
        self._server.startService()

    def _client_for(self, port: int) -> ClientConfig:
        return attrs.evolve(self._client_config, server=(Destination(_LOOPBACK, port),))

    async def client(self, port: int) -> ClientService:
        """Start a client and wait for its link.

        Args:
            port: Where it connects on 127.0.0.1.

        Raises:
            HandshakeError: There was no link in time.
        """
        client = ClientService(self._runtime, self._client_for(port))
        client.startService()
        ready = client.dialer.when_ready()
        ready.addTimeout(_PATIENCE, self._runtime.clock)
        try:
            await ready
        except TimeoutError:
            failure = client.dialer.last_failure
            await client.stopService()
            raise _unreachable(failure.value if failure else None) from None
        except BaseException:
            await client.stopService()
            raise
        return client

    async def open_link(self, port: int) -> None:
        """Open a link by a whole handshake, and drop it.

        Args:
            port: Where to connect on 127.0.0.1.

        Raises:
            HandshakeError: There was no link.
        """
        config = self._client_for(port)
        carrier = Carrier.TCP if config.tls_sni is None else Carrier.TLS
        endpoint = ServerEndpoint(
            host=_LOOPBACK, port=port, public_key=config.server_public_key.raw, carrier=carrier
        )
        where, settings = connector(self._runtime, config)(endpoint)
        up: Deferred[FrameProtocol] = Deferred()
        attempt = Attempt(self._runtime, where, settings, config.keepalive, up.callback, up.errback)
        attempt.begin()
        try:
            link = await up
        except CancelledError:  # the audit's end; an attempt that times out says otherwise
            attempt.cancel()
            raise
        except Exception as error:
            raise _unreachable(error) from None
        link.abort()


def _resolve(name: str) -> Deferred[list[IPAddress]]:
    """Know the site's names and no others: what a browser asks for besides stays here."""
    if name in NAMES:
        return succeed([_LOOPBACK])
    return fail(socket.gaierror(socket.EAI_NONAME, "not a name of the audit's site"))


def _behind_front(server: ServerConfig, folder: Path) -> ServerConfig:
    """Return settings of a server whose TLS is a front's, with sockets for it in `folder`."""
    folder.mkdir(exist_ok=True)
    # nginx, having been started by root, connects as nobody.
    folder.chmod(0o755)
    http1, h2 = UnixSocket(folder / "h1"), UnixSocket(folder / "h2")
    with_h2 = () if server.decoy_h2c is None else (h2,)
    return attrs.evolve(
        server,
        listen=(),
        front_listen=(http1,),
        front_listen_h2=with_h2,
        trusted_proxies=(http1, *with_h2),
        tls_cert=None,
        tls_key=None,
    )


def _unreachable(error: BaseException | None) -> HandshakeError:
    why = str(error) or type(error).__name__ if error is not None else "nothing came of it in time"
    return HandshakeError(f"this client and this server do not get together: {why}")
