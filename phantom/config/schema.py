"""The schema: every setting, its type, its default and what it is for.

These classes are the only list of settings there is.  The loader fills them, and the
templates of ``phantom init``, the output of ``phantom check`` and
``doc/configuration.md`` are generated from their metadata.  Everything in an instance is
parsed, typed and absolute: seconds are floats, sizes are bytes, paths are absolute.

Here are the two kinds of files and what both have; the tables of the one kind are in
`phantom.config.schema_server`, those of the other in `phantom.config.schema_client`.
"""

from __future__ import annotations

import attrs

from phantom.config import kinds
from phantom.config.schema_client import ClientConfig
from phantom.config.schema_server import ServerConfig
from phantom.config.setting import about
from phantom.telemetry import LEVELS


@attrs.frozen(slots=True, kw_only=True)
class LoggingConfig:
    """How much is written to the log."""

    level: str = attrs.field(
        default="info",
        metadata=about(
            kinds.choice(*LEVELS),
            "The least severe line that is written. `--log-level` on the command line overrides "
            "it.",
        ),
    )


@attrs.frozen(slots=True, kw_only=True)
class ServerFile:
    """A server's file, whole."""

    server: ServerConfig
    logging: LoggingConfig = attrs.field(factory=LoggingConfig)


@attrs.frozen(slots=True, kw_only=True)
class ClientFile:
    """A client's file, whole."""

    client: ClientConfig
    logging: LoggingConfig = attrs.field(factory=LoggingConfig)
