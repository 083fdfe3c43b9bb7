"""Tunnels written in C and C++, from Debian."""

from __future__ import annotations

import functools
from typing import Any

from benchmarks.peers.base import NAME, PASSWORD, Commands, Peer, Place, program

TLS13 = "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"
TLS12 = "ECDHE-ECDSA-AES128-GCM-SHA256"


def shadowsocks(place: Place, method: str) -> Commands:
    """shadowsocks-libev, ss-local and ss-server."""
    common = ["-s", place.server, "-p", str(place.port), "-k", PASSWORD, "-m", method]
    common += ["-t", "600", "-n", "20000"]
    return Commands(
        server=[[program("ss-server"), *common]],
        client=[[program("ss-local"), *common, "-b", "127.0.0.1", "-l", str(place.socks_port)]],
        proxy=f"socks5://{place.socks}",
    )


def trojan(place: Place) -> Commands:
    """trojan, both ends."""
    tcp = {"prefer_ipv4": True, "no_delay": True, "keep_alive": True, "reuse_port": False}
    common = {"password": [PASSWORD], "log_level": 3, "tcp": tcp}
    tls: dict[str, Any] = {"cert": place.certificate, "cipher": TLS12, "cipher_tls13": TLS13}
    tls |= {"alpn": ["http/1.1"], "reuse_session": True, "session_ticket": False, "curves": ""}
    server = common | {
        "run_type": "server",
        "local_addr": place.server,
        "local_port": place.port,
        "remote_addr": "127.0.0.1",
        "remote_port": 80,
        "ssl": tls
        | {
            "key": place.key,
            "key_password": "",
            "prefer_server_cipher": True,
            "session_timeout": 600,
            "plain_http_response": "",
            "dhparam": "",
        },
    }
    client = common | {
        "run_type": "client",
        "local_addr": "127.0.0.1",
        "local_port": place.socks_port,
        "remote_addr": place.server,
        "remote_port": place.port,
        "ssl": tls | {"verify": True, "verify_hostname": True, "sni": NAME},
    }
    run = [program("trojan"), "-c"]
    return Commands(
        server=[[*run, place.json("server.json", server)]],
        client=[[*run, place.json("client.json", client)]],
        proxy=f"socks5://{place.socks}",
    )


def _shadowsocks(name: str, method: str, group: str) -> Peer:
    make = functools.partial(shadowsocks, method=method)
    return Peer(
        name, make, f"shadowsocks-libev (C), {method}", "aead", group, ("shadowsocks-libev",)
    )


PEERS = [
    _shadowsocks("ss-libev-aes256gcm", "aes-256-gcm", "peer"),
    _shadowsocks("ss-libev-chacha20", "chacha20-ietf-poly1305", "more"),
    Peer("trojan-cpp", trojan, "trojan (C++), TLS 1.3", "tls", apt=("trojan",)),
]
