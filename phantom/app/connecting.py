"""From the client's settings to its server: which endpoints, which carrier, which keys."""

from __future__ import annotations

import attrs
from twisted.internet.interfaces import IStreamClientEndpoint

from phantom.app.shaping import client_shaping, scheme_memory
from phantom.carriers.congestion import LinkSockets
from phantom.carriers.registry import client_endpoint
from phantom.carriers.tls_client import TLSClientSettings
from phantom.config.schema_client import ClientConfig
from phantom.core.endpoint_list import MAX_ENDPOINTS, Carrier, ServerEndpoint
from phantom.core.handshake import Cipher, Mode, PostQuantum
from phantom.crypto import kem
from phantom.errors import ConfigurationError
from phantom.runtime import Runtime
from phantom.telemetry import Meters
from phantom.tunnel.attempt import Connect
from phantom.tunnel.endpoint_memory import MemoryFile, fingerprint
from phantom.tunnel.endpoints import KnownEndpoints
from phantom.tunnel.initiator import InitiatorSettings
from phantom.tunnel.post_quantum import ClientSecrets
from phantom.tunnel.scheme_memory import SchemeMemory
from phantom.tunnel.server_clock import ServerClock


def choose_cipher(setting: str) -> Cipher:
    """Return the cipher for ``cipher = auto|aesgcm|chachapoly``.

    ``auto`` takes AES-GCM where the processor has instructions for it, as it is five times
    cheaper a byte there, and ChaCha20-Poly1305 elsewhere, where it is the faster.
    """
    if setting == "aesgcm":
        return Cipher.AESGCM
    if setting == "chachapoly":
        return Cipher.CHACHAPOLY
    return Cipher.AESGCM if has_aes_instructions() else Cipher.CHACHAPOLY


def post_quantum_policy(setting: str) -> PostQuantum:
    """Return the policy for ``post_quantum = auto|require|off``.

    Raises:
        ConfigurationError: It is required, and this machine cannot do it.
    """
    policy = PostQuantum(setting)
    if policy is PostQuantum.REQUIRE and not kem.available():
        raise ConfigurationError(
            "this machine's cryptography package was built without ML-KEM-768",
            key="post_quantum",
            fix='upgrade that package, or set post_quantum = "auto"',
        )
    return policy


def has_aes_instructions() -> bool:
    """Tell whether the processor speeds AES up; True where the system does not say."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as cpuinfo:
            text = cpuinfo.read(65536)
    except OSError:
        return True  # macOS and Windows run on processors that all have them
    # x86 lists "flags", ARM "Features"; both call it "aes".
    return any(
        " aes" in line for line in text.splitlines() if line.startswith(("flags", "Features"))
    )


def known_endpoints(runtime: Runtime, config: ClientConfig, meters: Meters) -> KnownEndpoints:
    """Return what the client knows of its server's endpoints.

    A client with one server and no identity has nothing to choose and nothing to remember:
    it touches no file.
    """
    key = config.server_public_key.raw
    carrier = Carrier.TCP if config.tls_sni is None else Carrier.TLS
    configured = [
        ServerEndpoint(host=server.host, port=server.port, public_key=key, carrier=carrier)
        for server in config.server
    ]
    identity = None if config.server_identity is None else config.server_identity.raw
    file = None
    if identity is not None or len(configured) > 1:
        file = MemoryFile(config.state_dir, fingerprint(identity or key))
    return KnownEndpoints(runtime, configured, meters, identity=identity, file=file)


def connector(
    runtime: Runtime, config: ClientConfig, schemes: SchemeMemory | None = None
) -> Connect:
    """Return what prepares the attempt at an endpoint.

    Args:
        runtime: The outside world.
        config: The settings.
        schemes: What the server has pushed; None for a memory that nothing is added to.
    """
    shaping = client_shaping(config, scheme_memory(config) if schemes is None else schemes)
    cipher = choose_cipher(config.cipher)
    post_quantum = post_quantum_policy(config.post_quantum)
    secrets = ClientSecrets()
    clocks: dict[ServerEndpoint, ServerClock] = {}
    sockets = LinkSockets(runtime, config.congestion)

    def connect(endpoint: ServerEndpoint) -> tuple[IStreamClientEndpoint, InitiatorSettings]:
        tls = None if endpoint.carrier is Carrier.TCP else tls_settings(config, endpoint)
        carrier = client_endpoint(runtime, str(endpoint.host), endpoint.port, tls, sockets)
        clock = clocks.setdefault(endpoint, ServerClock())
        if len(clocks) > MAX_ENDPOINTS:  # of lists that were replaced
            del clocks[next(iter(clocks))]
        return carrier, InitiatorSettings(
            private_key=config.private_key.raw,
            server_key=endpoint.public_key,
            cipher=cipher,
            mode=Mode.BARE if tls is None else Mode.TLS_HTTP1,
            host="" if tls is None else http_host(tls.sni, endpoint.port),
            prefix=config.tcp_prefix,
            timeout=config.handshake_timeout,
            post_quantum=post_quantum,
            secrets=secrets,
            clock=clock,
            shaping=attrs.evolve(shaping, bare=tls is None),
        )

    return connect


def tls_settings(config: ClientConfig, endpoint: ServerEndpoint) -> TLSClientSettings:
    """Return how to do TLS with an endpoint.

    What the endpoint does not say is as in the client's file; but the file's pin is that of
    the certificate for the file's name, and says nothing about another one.
    """
    name = endpoint.sni or config.tls_sni or str(endpoint.host)
    pin = endpoint.pin
    if pin is None and config.tls_pin is not None and name == config.tls_sni:
        pin = config.tls_pin.digest
    return TLSClientSettings(
        sni=name,
        profile=config.tls_profile,
        ca_file=str(config.tls_ca) if config.tls_ca is not None else None,
        pin=pin,
        ech=config.tls_ech,
    )


def http_host(name: str, port: int) -> str:
    """Return the Host of the request inside TLS: a browser names a port that is not 443."""
    return name if port == 443 else f"{name}:{port}"
