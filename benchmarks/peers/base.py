"""What a peer is, and what it is given to make its configuration from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from benchmarks.programs import CACHE, Unavailable

#: Throwaway credentials: everything runs between processes of one machine.
PASSWORD = "benchmark-password-0123456789abcdef"
NAME = "bench.example"


@attrs.frozen
class Place:
    """Where one run of a peer happens: a folder, and addresses."""

    folder: Path
    server: str
    destination: str
    port: int
    inner_port: int
    socks_port: int
    http_port: int
    destination_port: int

    @property
    def socks(self) -> str:
        """The SOCKS5 proxy, as a client uses it."""
        return f"127.0.0.1:{self.socks_port}"

    @property
    def http(self) -> str:
        """The HTTP proxy, as a client uses it."""
        return f"127.0.0.1:{self.http_port}"

    @property
    def keys(self) -> Path:
        """The folder of throwaway keys (install.make_keys)."""
        return CACHE / "keys"

    @property
    def certificate(self) -> str:
        """The server's certificate, for `NAME`."""
        return str(self.keys / "cert.pem")

    @property
    def key(self) -> str:
        """The private key of the certificate."""
        return str(self.keys / "key.pem")

    def file(self, name: str, text: str) -> str:
        """Write a file that only we can read; return its path."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        return str(path)

    def json(self, name: str, value: Any) -> str:
        """Write a JSON file; return its path."""
        return self.file(name, json.dumps(value, indent=1))


@attrs.frozen
class Commands:
    """How to run a peer: what to start, in this order, and how to reach it.

    Attributes:
        server: Commands on the server's side; the last one listens on the tunnel's port.
        client: Commands on the client's side.
        proxy: The proxy in the words of loadgen, or "direct".
        http: "HOST:PORT" of an HTTP CONNECT proxy, if there is one.
        environment: Added to the environment.
    """

    server: list[list[str]] = attrs.field(factory=list)
    client: list[list[str]] = attrs.field(factory=list)
    proxy: str = "direct"
    http: str | None = None
    environment: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Peer:
    """Something to measure.

    Attributes:
        name: What it is called.
        make: Writes its configuration in a place and says how to run it; raises `Unavailable`.
        note: What it is.
        wire: What its connections are: "none", "aead", "ssh", "tls" or "quic".
        group: The names that choose several: "all" takes what is not "more" or "optional".
        apt: Debian packages it needs.
        pip: PyPI packages it needs, in an environment of their own.
        tree: The checkout it runs from, if it is this project.
        python: The interpreter it is run by, if that is not the one that runs the benchmark.
    """

    name: str
    make: Callable[[Place], Commands]
    note: str
    wire: str
    group: str = "peer"
    apt: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()
    tree: Path | None = None
    python: str | None = None


def program(*names: str) -> str:
    """Return the path of the first of these programs that is installed."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/sbin"
    for name in names:
        found = shutil.which(name, path=path)
        if found:
            return found
    raise Unavailable(f"{names[0]} is not installed")


def venv_python(package: str) -> str:
    """Return the Python of the peers' environment, if it has a package."""
    venv = CACHE / "venv"
    if not any(venv.glob(f"lib/python*/site-packages/{package}")):
        raise Unavailable(f"{package} is not installed")
    return str(venv / "bin" / "python")
