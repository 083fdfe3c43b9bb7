"""The peers: what is measured, this project and others."""

from __future__ import annotations

from benchmarks.peers import native, openssh, phantom, plain, python, singbox
from benchmarks.peers.base import Peer

#: All of them by name, in the order of tables.
PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in [
        *plain.PEERS,
        *phantom.peers(),
        *openssh.PEERS,
        *native.PEERS,
        *singbox.PEERS,
        *python.PEERS,
    ]
}
