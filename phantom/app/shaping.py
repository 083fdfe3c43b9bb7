"""From the settings to the shape of links."""

from __future__ import annotations

from phantom.config.schema_client import ClientConfig
from phantom.config.schema_server import ServerConfig
from phantom.core.shaping import Padding, Timing
from phantom.tunnel.endpoint_memory import fingerprint
from phantom.tunnel.scheme_memory import SchemeMemory
from phantom.tunnel.shaper import Shaping


def server_shaping(config: ServerConfig) -> Shaping:
    """Return how a server's links are shaped."""
    return Shaping(padding=Padding(config.padding), timing=Timing(config.timing), client=False)


def client_shaping(config: ClientConfig, schemes: SchemeMemory) -> Shaping:
    """Return how a client's links are shaped.

    Args:
        config: The settings.
        schemes: What the server has pushed.
    """
    return Shaping(
        padding=Padding(config.padding),
        timing=Timing(config.timing),
        client=True,
        scheme=schemes.scheme,
    )


def scheme_memory(config: ClientConfig) -> SchemeMemory:
    """Return the memory of what this client's server has pushed."""
    identity = config.server_identity
    key = config.server_public_key.raw if identity is None else identity.raw
    return SchemeMemory(config.state_dir, fingerprint(key))
