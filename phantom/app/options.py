"""What both plugins share: their options, and how a mistake ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from twisted.python import usage

from phantom.config.schema import LoggingConfig
from phantom.errors import ConfigurationError
from phantom.telemetry import LEVELS, set_level

T = TypeVar("T")


class PluginOptions(usage.Options):
    """Options of ``twistd phantom-server`` and ``twistd phantom-client``."""

    optParameters = [  # noqa: RUF012  (Twisted's interface)
        ["config", "c", None, "The configuration file."],
        ["log-level", "l", None, f"Overrides [logging] level: {', '.join(LEVELS)}."],
    ]

    def opt_version(self) -> NoReturn:
        """Show phantom's version and exit."""
        from phantom.version import version_line

        print(version_line())
        raise SystemExit(0)


def configured(make: Callable[[], T]) -> T:
    """Call `make`; a mistake of the user ends the program with one line a mistake.

    Called inside ``makeService``, where `SystemExit` is clean under twistd, in the
    foreground and daemonised.
    """
    try:
        return make()
    except ConfigurationError as error:
        lines = [f"phantom: {line}" for line in str(error).splitlines()]
        raise SystemExit("\n".join(lines)) from None


def apply_log_level(options: Any, logging: LoggingConfig) -> None:
    """Set the level from the option, or else from the configuration.

    Raises:
        ConfigurationError: The option names no level.
    """
    level = options["log-level"] or logging.level
    if level not in LEVELS:
        raise ConfigurationError(
            f"there is no level {level!r}",
            key="--log-level",
            fix=f"choose one of {', '.join(LEVELS)}",
        )
    set_level(level)
