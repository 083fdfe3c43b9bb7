"""Making a process phantom's own: its clock, its turns, its memory."""

from __future__ import annotations

from typing import Any

from phantom.fast.memory import settle
from phantom.fast.turns import install_turns
from phantom.runtime import steady


def prepare_process(reactor: Any) -> None:
    """Prepare a process that runs nothing but phantom; a program that embeds it does not.

    Args:
        reactor: The process's; not running yet.
    """
    steady(reactor)
    install_turns(reactor)
    reactor.callWhenRunning(settle)
