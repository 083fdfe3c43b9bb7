"""``ssh -D``: one connection carries all streams."""

from __future__ import annotations

import functools
import getpass
from pathlib import Path

from benchmarks.peers.base import Commands, Peer, Place, program


def openssh(place: Place, cipher: str) -> Commands:
    """Run sshd with a configuration of its own, and ssh without any."""
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on its empty folder
    settings = {
        "ListenAddress": place.server,
        "Port": place.port,
        "HostKey": place.keys / "ssh_host",
        "AuthorizedKeysFile": place.keys / "authorized_keys",
        "StrictModes": "no",
        "UsePAM": "no",
        "PasswordAuthentication": "no",
        "PermitRootLogin": "yes",
        "MaxStartups": 1000,
        "PidFile": "none",
        "AllowTcpForwarding": "yes",
        "Ciphers": cipher,
        "UseDNS": "no",
    }
    config = place.file("sshd_config", "".join(f"{k} {v}\n" for k, v in settings.items()))
    options = {
        "Ciphers": cipher,
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
        "LogLevel": "ERROR",
        "Compression": "no",
        "IdentitiesOnly": "yes",
        "ExitOnForwardFailure": "yes",
    }
    ssh = [program("ssh"), "-F", "none", "-N", "-D", place.socks, "-p", str(place.port)]
    ssh += ["-i", str(place.keys / "ssh_user")]
    ssh += [text for k, v in options.items() for text in ("-o", f"{k}={v}")]
    ssh += [f"{getpass.getuser()}@{place.server}"]
    sshd = [program("sshd"), "-D", "-e", "-f", config]
    return Commands(server=[sshd], client=[ssh], proxy=f"socks5://{place.socks}")


def _peer(name: str, cipher: str, group: str) -> Peer:
    return Peer(
        name,
        functools.partial(openssh, cipher=cipher),
        f"OpenSSH ssh -D, {cipher.partition('@')[0]}",
        "ssh",
        group,
        apt=("openssh-server", "openssh-client"),
    )


PEERS = [
    _peer("ssh-aes128gcm", "aes128-gcm@openssh.com", "peer"),
    _peer("ssh-chacha20", "chacha20-poly1305@openssh.com", "more"),
]
