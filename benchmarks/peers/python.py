"""Tunnels written in Python, from PyPI."""

from __future__ import annotations

from benchmarks.peers.base import PASSWORD, Commands, Peer, Place, venv_python

#: pproxy 2.7.9 asks for the current event loop, which later versions of uvloop no longer make
#: unasked.
PPROXY = """
import asyncio, sys, uvloop
policy = uvloop.EventLoopPolicy()
asyncio.set_event_loop_policy(policy)
policy.set_event_loop(policy.new_event_loop())
asyncio.set_event_loop_policy = lambda policy: None
from pproxy.server import main
sys.exit(main())
"""


def _pproxy(*arguments: str) -> list[str]:
    return [venv_python("pproxy"), "-c", PPROXY, *arguments]


def pproxy_shadowsocks(place: Place) -> Commands:
    """pproxy speaking shadowsocks."""
    url = f"ss://aes-256-gcm:{PASSWORD}@{place.server}:{place.port}"
    return Commands(
        server=[_pproxy("-l", url)],
        client=[_pproxy("-l", f"socks5://{place.socks}", "-r", url)],
        proxy=f"socks5://{place.socks}",
    )


def pproxy_tls(place: Place) -> Commands:
    """pproxy speaking SOCKS5 in TLS."""
    url = f"socks5+ssl://{place.server}:{place.port}"
    return Commands(
        server=[_pproxy("-l", url, "--ssl", f"{place.certificate},{place.key}")],
        client=[_pproxy("-l", f"socks5://{place.socks}", "-r", url)],
        proxy=f"socks5://{place.socks}",
    )


_NEEDS = ("pproxy", "pycryptodome", "uvloop")

PEERS = [
    Peer(
        "pproxy-ss",
        pproxy_shadowsocks,
        "pproxy (Python, uvloop), shadowsocks aes-256-gcm",
        "aead",
        pip=_NEEDS,
    ),
    Peer("pproxy-tls", pproxy_tls, "pproxy (Python, uvloop), SOCKS5 in TLS", "tls", pip=_NEEDS),
]
