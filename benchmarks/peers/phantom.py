"""The project itself, and beside it other checkouts, or the same by other interpreters."""

from __future__ import annotations

import base64
import functools
import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from benchmarks.peers.base import NAME, Commands, Peer, Place
from benchmarks.programs import ROOT, Unavailable, answer_of

TWISTD = "from twisted.scripts.twistd import run; run()"

#: Room for `idle10k` and its like.  Each stream may hold 16 KiB, and all of them must fit into
#: the session's memory.
ROOM = {"max_streams": 20_000, "session_memory": "400 MiB"}
SERVER_ROOM = {"max_connections": 20_000, "max_connections_per_client": 20_000}


@attrs.frozen
class Variant:
    """A way to run phantom: its carrier, and settings besides those it always has."""

    name: str
    tls: bool
    note: str
    group: str = "phantom"
    server: Mapping[str, Any] = attrs.field(factory=dict)
    client: Mapping[str, Any] = attrs.field(factory=dict)


VARIANTS = [
    Variant("phantom-raw", tls=False, note="bare TCP, AES-GCM"),
    Variant("phantom-tls", tls=True, note="TLS: utls to OpenSSL"),
    Variant(
        "phantom-tls-boringssl",
        tls=True,
        note='TLS: utls at both ends (tls_engine = "boringssl")',
        group="optional",
        server={"tls_engine": "boringssl"},
    ),
    Variant(
        "phantom-raw-workers2",
        tls=False,
        note="bare TCP, two server processes (workers = 2)",
        group="optional",
        server={"workers": 2},
    ),
    Variant(
        "phantom-tls-workers2",
        tls=True,
        note="TLS, two server processes (workers = 2)",
        group="optional",
        server={"workers": 2},
    ),
]


def toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Return tables of strings, numbers and lists as TOML."""
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def key_pair() -> tuple[str, str]:
    """Return a fresh private key and its public one, in base64."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    key = X25519PrivateKey.generate()
    raw = key.private_bytes_raw(), key.public_key().public_bytes_raw()
    return base64.b64encode(raw[0]).decode(), base64.b64encode(raw[1]).decode()


def known_settings(tree: Path) -> str:
    """Return the text that declares the settings of a checkout."""
    # One file in older checkouts, several since.
    files = sorted((tree / "phantom" / "config").glob("schema*.py"))
    if not files:
        raise Unavailable(f"no phantom in {tree}")
    return "".join(file.read_text() for file in files)


def phantom(place: Place, variant: Variant, tree: Path, python: str) -> Commands:
    """Run client and server of a checkout, each with twistd, with fresh keys."""
    text = known_settings(tree)
    for setting in [*variant.server, *variant.client]:
        if f"    {setting}: " not in text:
            raise Unavailable(f"phantom has no setting {setting} (yet)")
    server_private, server_public = key_pair()
    client_private, client_public = key_pair()
    server = {
        "listen": f"{place.server}:{place.port}",
        "private_key": server_private,
        "allowed_clients": [client_public],
        "state_dir": str(place.folder / "server-state"),
        **ROOM,
        **SERVER_ROOM,
    }
    client = {
        "server": f"{place.server}:{place.port}",
        "server_public_key": server_public,
        "private_key": client_private,
        "state_dir": str(place.folder / "client-state"),
        "socks5_listen": place.socks,
        "http_listen": place.http,
        **ROOM,
    }
    if variant.tls:
        server |= {"tls_cert": place.certificate, "tls_key": place.key}
        client |= {"tls_sni": NAME, "tls_ca": place.certificate}
    egress = {"allow": ["127.0.0.0/8", "10.0.0.0/8"]}
    files = {
        "server": {"server": {**server, **variant.server}, "server.egress": egress},
        "client": {"client": {**client, **variant.client}},
    }
    run = [python, "-c", TWISTD, "-n"]
    commands = {
        side: [
            *run,
            f"--pidfile={place.folder / side}.pid",
            f"phantom-{side}",
            *("--config", place.file(f"{side}.toml", toml(tables))),
        ]
        for side, tables in files.items()
    }
    return Commands(
        server=[commands["server"]],
        client=[commands["client"]],
        proxy=f"socks5://{place.socks}",
        http=place.http,
        environment={"PYTHONPATH": str(tree)},
    )


def peer(
    variant: Variant,
    tree: Path = ROOT,
    label: str = "",
    python: str | None = None,
    source: Path | None = None,
) -> Peer:
    """Return a variant of a checkout as a peer.

    Args:
        variant: How to run it.
        tree: The checkout.
        label: Added to the name behind an "@", to tell checkouts and interpreters apart.
        python: The interpreter, if not the one that runs this.
        source: The checkout that the tree was made from, if it is none itself.
    """
    return Peer(
        f"{variant.name}@{label}" if label else variant.name,
        lambda place: phantom(place, variant, tree, python or sys.executable),
        f"phantom, {variant.note}",
        "tls" if variant.tls else "aead",
        variant.group,
        tree=source or tree,
        python=python,
    )


def peers(
    tree: Path = ROOT, label: str = "", python: str | None = None, source: Path | None = None
) -> list[Peer]:
    """Return all variants of a checkout as peers; arguments as `peer`."""
    return [peer(variant, tree, label, python, source) for variant in VARIANTS]


def with_settings(text: str) -> Peer:
    """Return a variant with other settings: "NAME=PEER,client.KEY=VALUE,server.KEY=VALUE...".

    Values are as in TOML; its name is "PEER+NAME".

    Raises:
        ValueError: The text says something else.
    """
    head, *changes = text.split(",")
    name, _, base = head.partition("=")
    bases = {variant.name: variant for variant in VARIANTS}
    if base not in bases:
        raise ValueError(f"{text}: NAME=PEER is wanted first, of {', '.join(bases)}")
    settings: dict[str, dict[str, Any]] = {
        "server": dict(bases[base].server),
        "client": dict(bases[base].client),
    }
    for change in changes:
        key, _, value = change.partition("=")
        side, _, setting = key.partition(".")
        if side not in settings or not setting:
            raise ValueError(f"{text}: {change} is not client.KEY=VALUE or server.KEY=VALUE")
        try:
            settings[side] |= tomllib.loads(f"{setting} = {value}")
        except tomllib.TOMLDecodeError:
            raise ValueError(f"{text}: {value!r} is no TOML value") from None
    note = f"{bases[base].note}; {', '.join(changes)}"
    changed = attrs.evolve(
        bases[base],
        name=f"{base}+{name}",
        note=note,
        server=settings["server"],
        client=settings["client"],
    )
    return peer(changed)


@functools.cache
def version_of(python: str) -> str:
    """Return the version of an interpreter, "unknown" if it does not say."""
    return answer_of(python, "import platform; print(platform.python_version())") or "unknown"


def commit(tree: Path = ROOT) -> str:
    """Return the commit of a checkout, with a plus if files differ from it."""
    try:
        done = subprocess.run(
            ["git", "-C", str(tree), "describe", "--always", "--abbrev=10", "--dirty=+"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
