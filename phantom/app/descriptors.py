"""How many files the process may have open, and who may use how many of them."""

from __future__ import annotations

import sys

#: More descriptors than this are not asked for: a server never needs them, and a few
#: programs of old walk through all of them.
ENOUGH = 1 << 20
#: What is assumed where the system has no such limit to ask for.
ASSUMED = 8192


def raise_descriptor_limit() -> int:
    """Raise the limit as far as this user may, and return it.

    The usual soft limit of 1,024 is there for programs that use ``select``; an epoll
    server that keeps it locks its clients out at a few hundred streams.
    """
    if sys.platform == "win32":
        return ASSUMED
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    wanted = ENOUGH if hard == unlimited else min(hard, ENOUGH)
    if soft != unlimited and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return soft  # macOS refuses more than OPEN_MAX
        return wanted
    return ENOUGH if soft == unlimited else soft
