"""What visitors who are no clients get, inside TLS, by the configuration."""

from __future__ import annotations

from phantom.address import Destination
from phantom.carriers.decoy import BackendDecoy, FolderDecoy, built_in_site
from phantom.config.schema import ServerConfig
from phantom.interfaces import StrangerPolicy
from phantom.relay import relay_pair
from phantom.runtime import Runtime


def stranger_policy(runtime: Runtime, config: ServerConfig) -> StrangerPolicy:
    """Return the decoy that ``decoy`` names, or the built-in site without one."""
    decoy = config.decoy
    if isinstance(decoy, Destination):
        return BackendDecoy(runtime, str(decoy.host), decoy.port, relay_pair)
    if decoy is not None:
        return FolderDecoy(runtime, str(decoy))
    return built_in_site(runtime, config.private_key.public().raw)
