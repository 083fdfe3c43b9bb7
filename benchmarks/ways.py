"""Tunnels to compare: this program over each carrier, ``ssh -D``, sing-box.

Each is made in a folder, has its client reach its server through a `Censor`, and offers a
SOCKS5 proxy.
"""

from __future__ import annotations

import getpass
import json
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
from support.censor import Censor, Rules
from support.certificates import make_certificate
from support.programs import (
    SERVER_NAME,
    Program,
    Tunnel,
    free_port,
    socks5_connect,
    wait_until,
)


@attrs.frozen
class Way:
    """A running tunnel.

    Attributes:
        censor: What all its connections pass.
        connect: Makes a connection to a port of 127.0.0.1 through it.
        server: The server's process.
        client: The client's process.
    """

    censor: Censor
    connect: Callable[[int], socket.socket]
    server: Program
    client: Program


def listens(port: int) -> bool:
    """Whether something accepts connections on a port of 127.0.0.1."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def through(port: int) -> Callable[[int], socket.socket]:
    """Return what connects through a SOCKS5 proxy on a port of 127.0.0.1."""
    return lambda target: socks5_connect(f"127.0.0.1:{port}", target)


@contextmanager
def phantom(carrier: str, folder: Path, rules: Rules) -> Iterator[Way]:
    """This program; ``carrier`` as in the configuration."""
    with Tunnel(folder, carrier) as tunnel:
        tunnel.start_server()
        censor = Censor(tunnel.server_address, rules)
        tunnel.client_settings["server"] = f"127.0.0.1:{censor.port}"
        tunnel.start_client()
        yield Way(censor, tunnel.connect, tunnel.server, tunnel.client)
        censor.close()


@contextmanager
def ssh(folder: Path, rules: Rules) -> Iterator[Way]:
    """``ssh -D`` with a server of its own; probes of liveness every two seconds."""
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if sshd is None or shutil.which("ssh") is None:
        raise SystemExit("not installed: openssh-server and openssh-client")
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
        )
    (folder / "user.pub").rename(folder / "allowed")
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd of Debian separates privileges
    port, socks = free_port(), free_port()
    lines = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {folder}/host",
        f"AuthorizedKeysFile {folder}/allowed",
        "StrictModes no",
        "PidFile none",
        "PermitRootLogin prohibit-password",
        "PasswordAuthentication no",
        "ClientAliveInterval 2",
    ]
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    with ExitStack() as stack:
        server = stack.enter_context(
            Program("sshd", [sshd, "-D", "-e", "-f", folder / "sshd_config"], folder)
        )
        wait_until(lambda: listens(port), "sshd listens")
        censor = Censor(("127.0.0.1", port), rules)
        stack.callback(censor.close)
        # A user keeps it up with a loop or autossh: so does this.
        command = (
            f"while true; do ssh -N -D 127.0.0.1:{socks} -p {censor.port} -i {folder}/user -F none "
            "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes "
            "-o ServerAliveInterval=2 -o ServerAliveCountMax=2 -o ExitOnForwardFailure=yes "
            f"{getpass.getuser()}@127.0.0.1; sleep 0.1; done"
        )
        # The loop ends with its shell, the ssh in it when the censor closes its link for good.
        client = stack.enter_context(Program("ssh", ["/bin/sh", "-c", command], folder))
        wait_until(lambda: listens(socks), "ssh listens")
        yield Way(censor, through(socks), server, client)
        client.kill()
        censor.blocked = True


@contextmanager
def singbox(program: Path, folder: Path, rules: Rules) -> Iterator[Way]:
    """sing-box with trojan in TLS, a connection for each stream.

    Its multiplexing would not pass the half-closes that the transfers end with.
    """
    certificate = make_certificate(folder, SERVER_NAME)
    port, socks = free_port(), free_port()
    tls = {"enabled": True, "server_name": SERVER_NAME, "certificate_path": str(certificate.cert)}
    with ExitStack() as stack:
        censor = Censor(("127.0.0.1", port), rules)
        stack.callback(censor.close)
        inbound = {
            "type": "trojan",
            "listen": "127.0.0.1",
            "listen_port": port,
            "users": [{"name": "u", "password": "throw-away"}],
            "tls": tls | {"key_path": str(certificate.key)},
        }
        outbound = {
            "type": "trojan",
            "server": "127.0.0.1",
            "server_port": censor.port,
            "password": "throw-away",
            "tls": tls,
        }
        local = {"type": "mixed", "listen": "127.0.0.1", "listen_port": socks}
        running = []
        for name, ends in (
            ("server", {"inbounds": [inbound], "outbounds": [{"type": "direct"}]}),
            ("client", {"inbounds": [local], "outbounds": [outbound]}),
        ):
            config = folder / f"{name}.json"
            config.write_text(json.dumps({"log": {"level": "error"}} | ends))
            command: list[str | Path] = [program, "run", "-c", config]
            running.append(stack.enter_context(Program(f"sing-box-{name}", command, folder)))
        wait_until(lambda: listens(port) and listens(socks), "sing-box listens")
        yield Way(censor, through(socks), running[0], running[1])
