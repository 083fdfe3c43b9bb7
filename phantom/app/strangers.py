"""What visitors who are no clients get, inside TLS, by the configuration."""

from __future__ import annotations

import attrs

from phantom.address import Destination
from phantom.carriers.decoy import BackendDecoy, FolderDecoy, Guests, H2Decoy, built_in_site
from phantom.carriers.strangers import Strangers
from phantom.carriers.tls_server import plain_http_policy
from phantom.config.schema_server import ServerConfig
from phantom.crypto.kdf import SITE_LABEL, derive
from phantom.interfaces import StrangerPolicy
from phantom.relay import relay_pair
from phantom.runtime import Runtime


@attrs.frozen(slots=True)
class Reception:
    """How a server with TLS receives those who are no clients.

    Attributes:
        in_tls: Gets visitors whose TLS is up.
        not_tls: Gets visitors who do not speak TLS at all.
    """

    in_tls: Guests
    not_tls: StrangerPolicy


def reception(runtime: Runtime, config: ServerConfig, places: tuple[int, int]) -> Reception:
    """Return what ``decoy`` names, or the built-in site without one.

    Args:
        runtime: The outside world.
        config: The settings.
        places: Visitors at once, in all and of one network prefix.
    """
    # A spliced visitor holds two descriptors, one of them to the backend.
    limit, per_prefix = places
    strangers = Strangers(max(1, limit // 2), max(1, per_prefix // 2))
    decoy = config.decoy
    h2 = None
    if config.decoy_h2c is not None:
        host, port = str(config.decoy_h2c.host), config.decoy_h2c.port
        h2 = H2Decoy(runtime, host, port, relay_pair, strangers=strangers)
    if isinstance(decoy, Destination):
        backend = BackendDecoy(
            runtime, str(decoy.host), decoy.port, relay_pair, strangers=strangers
        )
        # Both must call themselves the same, whatever the backend is.
        plain = plain_http_policy(runtime, lambda: backend.banner)
        return Reception(Guests(backend, h2), plain)
    if decoy is not None:
        site = FolderDecoy(runtime, str(decoy), strangers=strangers)
    else:
        seed = derive(config.private_key.raw, SITE_LABEL)
        site = built_in_site(runtime, seed, strangers=strangers)
    return Reception(Guests(site, h2), plain_http_policy(runtime))
