"""Rules that reach beyond one setting: two keys that disagree, and files on the disk.

Each takes the settings that were read so far, by name; one whose value was a mistake of
its own is missing, and rules about it are passed over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from phantom.carriers import tls_utls
from phantom.carriers.tls_groups import AUTO, unknown_groups
from phantom.config.announced import AnnouncedEndpoint, announced_list
from phantom.config.key_files import chmod_advice, read_regular_file
from phantom.config.keys import PublicKey
from phantom.config.kinds import quote
from phantom.config.schema_shared import LEAST_STREAM_MEMORY, MiB
from phantom.config.values import (
    AllowedClient,
    IPNetwork,
    ListenAddress,
    UnixSocket,
    show_size,
)
from phantom.core.window import DEFAULT_WINDOW_LIMIT
from phantom.errors import ConfigurationError

#: ``report(key, problem, fix)`` notes a mistake in the table that is being checked.
Report = Callable[[str, str, str | None], None]

#: The most that is read of a PEM file: a bundle of every public authority is 250 kB.
MAX_PEM_FILE = 1024 * 1024

#: The most that is read of a list of clients: about 100,000 of them.
MAX_CLIENTS_FILE = 8 * 1024 * 1024


_TLS_PAIR = ("tls_cert", "tls_key")
_FRONTS = ("front_listen", "front_listen_h2")
_NO_FOLDER = "this is a file, and a folder is expected"


def check_server(values: Mapping[str, Any], report: Report) -> None:
    """Check a ``[server]`` table."""
    _check_memory(values, report)
    _check_own_key_listed(values, report)
    _check_endpoints(values, report)
    for name, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        # Both names are in `values` unless the value was a mistake already told.
        if values.get(name) is not None and other in values and values[other] is None:
            report(name, f"{other} is missing", f"set {other} too, or neither for bare TCP")
    _check_pair(values.get("tls_cert"), values.get("tls_key"), report)
    _check_fronts(values, report)
    decoy = values.get("decoy")
    bare = all(name in values and values[name] is None for name in _TLS_PAIR) and not any(
        values.get(name, True) for name in _FRONTS
    )
    for name in ("decoy", "decoy_h2c"):
        if values.get(name) is None or not bare:
            continue
        report(
            name,
            "has no effect without TLS: a visitor on bare TCP gets silence",
            "set tls_cert and tls_key, or remove it",
        )
    no_server = "decoy" in values and isinstance(decoy, Path | None)
    if values.get("decoy_h2c") is not None and no_server and not bare:
        report(
            "decoy_h2c",
            "is of no use without a web server as decoy: the two must be the same",
            'set decoy = "http://..." to where that server speaks HTTP/1.1, or remove it',
        )
    if values.get("tls_engine") == "boringssl" and not tls_utls.AVAILABLE:
        report("tls_engine", "BoringSSL is not installed", "pip install 'phantom[utls]'")
    _check_groups(values, report)
    if isinstance(decoy, Path) and not os.path.isdir(decoy):
        report("decoy", _NO_FOLDER if os.path.exists(decoy) else "no such folder", None)
    _check_state_folder(values, report)
    if values.get("workers", 1) > 1 and not hasattr(os, "fork"):
        report("workers", "this system has no fork(), so there is one process", "set workers = 1")


def _check_fronts(values: Mapping[str, Any], report: Report) -> None:
    """Check that nobody but a trusted front can connect where TLS has been ended."""
    names = ("listen", *_FRONTS)
    if all(name in values and not values[name] for name in names):
        report("listen", "missing", None)
    trusted = values.get("trusted_proxies")
    for name in _FRONTS:
        addresses: tuple[ListenAddress | UnixSocket, ...] = values.get(name) or ()
        for address in addresses:
            if isinstance(address, ListenAddress) and not address.is_loopback:
                report(
                    name,
                    f"other machines could connect to {address}, past the front that ends TLS",
                    f'listen on "127.0.0.1:{address.port}", or better on a unix socket',
                )
            elif trusted is not None and not _trusts(trusted, address):
                peer = str(address) if isinstance(address, UnixSocket) else f"{address.host}"
                report(
                    name,
                    f"trusted_proxies does not have the front that connects to {address}",
                    f"add {quote(peer)} to trusted_proxies, if only the front can connect there",
                )
    if values.get("front_listen_h2") and values.get("decoy_h2c", True) is None:
        report(
            "front_listen_h2",
            "needs decoy_h2c, which visitors over HTTP/2 get",
            "set decoy_h2c, or let the front agree to http/1.1 only",
        )


def _trusts(
    trusted: tuple[IPNetwork | UnixSocket, ...], address: ListenAddress | UnixSocket
) -> bool:
    """Tell whether who connects to `address` is among the trusted proxies."""
    if isinstance(address, UnixSocket):
        return address in trusted
    return any(
        not isinstance(network, UnixSocket) and address.host in network for network in trusted
    )


def _check_groups(values: Mapping[str, Any], report: Report) -> None:
    groups = values.get("tls_groups", AUTO)
    if groups == AUTO:
        return
    if values.get("tls_engine") == "boringssl":
        report("tls_groups", "has no effect with BoringSSL, which has its own", "remove it")
    elif unknown := unknown_groups(groups):
        report(
            "tls_groups",
            f"OpenSSL knows no group {', '.join(map(quote, unknown))}",
            'see the names with `openssl list -tls-groups` (OpenSSL 3.5), or set "auto"',
        )


def check_client(values: Mapping[str, Any], report: Report) -> None:
    """Check a ``[client]`` table."""
    _check_memory(values, report)
    private, server_key = values.get("private_key"), values.get("server_public_key")
    if private is not None and server_key in (private.public(), PublicKey(private.raw)):
        report("server_public_key", "this is the client's own key", "put the server's here")
    identity = values.get("server_identity")
    if identity is not None and server_key is not None and identity.raw == server_key.raw:
        report(
            "server_identity",
            "this is the server's public key, and its identity is a key of its own",
            "remove it, or put there what the server's check prints as its identity",
        )
    _check_state_folder(values, report)
    if "tls_sni" in values and values["tls_sni"] is None:
        for name in ("tls_ca", "tls_pin", "tls_ech"):
            if values.get(name) is not None:
                report(name, "has no effect without tls_sni", "set tls_sni, or remove it")
    elif values.get("tls_ca") is not None and values.get("tls_pin") is not None:
        report(
            "tls_ca",
            "has no effect besides tls_pin, which replaces the authorities",
            "keep one of the two",
        )
    if values.get("tls_ca") is not None:
        _load_certificates(values["tls_ca"], "tls_ca", report)
    if tls_utls.AVAILABLE and "tls_profile" in values:
        try:
            tls_utls.preset_of(values["tls_profile"])
        except ConfigurationError as error:
            report("tls_profile", error.problem, error.fix)
    if values.get("tls_ech") is not None and not tls_utls.AVAILABLE:
        report("tls_ech", "needs the package utls", "pip install 'phantom[utls]'")
    _check_listeners(values, report)


def _check_state_folder(values: Mapping[str, Any], report: Report) -> None:
    state = values.get("state_dir")
    if state is not None and os.path.lexists(state) and not os.path.isdir(state):
        report("state_dir", _NO_FOLDER, None)


def _check_endpoints(values: Mapping[str, Any], report: Report) -> None:
    """Check that the list of endpoints is whole and can be signed."""
    identity, private = values.get("identity_key"), values.get("private_key")
    if identity is not None and private is not None and identity.raw == private.raw:
        report(
            "identity_key",
            "this is the server's private_key, and an identity is a key of its own",
            "phantom genkey --identity",
        )
    names = ("endpoints", "endpoints_version", "identity_key", "tls_cert")
    if not all(name in values for name in names):
        return  # a mistake of its own, already told
    endpoints: tuple[AnnouncedEndpoint, ...] = values["endpoints"]
    version = values["endpoints_version"]
    if not endpoints:
        if version is not None:
            report("endpoints_version", "has no effect without endpoints", "remove it")
        return
    if version is None:
        report("endpoints", "endpoints_version is missing", "set endpoints_version = 1")
    if identity is None and values.get("identity_key_file") is None:
        report(
            "endpoints",
            "there is no identity_key to sign them",
            "phantom genkey --identity makes one, for identity_key or identity_key_file",
        )
    if values["tls_cert"] is None:
        for endpoint in endpoints:
            if endpoint.carrier is None and endpoint.needs_tls:
                report(
                    "endpoints",
                    f"sni and pin of {endpoint.address} have no effect: this host has no TLS",
                    'add carrier = "tls" if that host has',
                )
                return
    if private is not None:
        try:
            announced_list(
                endpoints, version or 1, 0, private.public(), values["tls_cert"] is not None
            )
        except ValueError as error:
            report("endpoints", str(error), None)


def _check_memory(values: Mapping[str, Any], report: Report) -> None:
    streams, memory = values.get("max_streams"), values.get("session_memory")
    if streams is None or memory is None:
        return
    needed = streams * LEAST_STREAM_MEMORY
    if needed > memory:
        report(
            "max_streams",
            f"{streams} streams of {show_size(LEAST_STREAM_MEMORY)} do not fit into "
            f"session_memory of {show_size(memory)}",
            f'set session_memory = "{show_size(-(-needed // MiB) * MiB)}" or more, '
            f"or max_streams = {memory // LEAST_STREAM_MEMORY} or less",
        )
    window = values.get("window")
    # The default is only a limit for what memory allows; whoever names a size means it.
    if window is not None and window > memory and window != DEFAULT_WINDOW_LIMIT:
        report(
            "window",
            f"does not fit into session_memory of {show_size(memory)}",
            f'set session_memory = "{show_size(window)}" or more, or a smaller window',
        )


def _check_own_key_listed(values: Mapping[str, Any], report: Report) -> None:
    private = values.get("private_key")
    clients: tuple[AllowedClient, ...] = values.get("allowed_clients") or ()
    if private is None:
        return
    listed = {client.key for client in clients}
    for key, noun in (
        (private.public(), "the server's own key"),
        (PublicKey(private.raw), "the server's own private key"),
    ):
        if key in listed:
            report("allowed_clients", f"this is {noun}", "put the clients' public keys here")


def _check_listeners(values: Mapping[str, Any], report: Report) -> None:
    names = ("socks5_listen", "http_listen")
    if not all(name in values for name in names):
        return
    addresses: dict[str, ListenAddress | None] = {name: values[name] for name in names}
    if not any(addresses.values()):
        report("socks5_listen", "both proxies are turned off", "set it or http_listen")
    if values.get("open_proxy", True) or values.get("proxy_users", True):
        return
    for name, address in addresses.items():
        if address is not None and not address.is_loopback:
            report(
                name,
                "other machines could use this proxy without a password",
                f'listen on "127.0.0.1:{address.port}", add [client.proxy_users], '
                "or set open_proxy = true",
            )


def _read(path: Path, name: str, report: Report) -> tuple[bytes, int] | None:
    try:
        return read_regular_file(path, MAX_PEM_FILE)
    except ConfigurationError as error:
        report(name, f"{path}: {error.problem}", None)
        return None


def _load_certificates(path: Path, name: str, report: Report) -> list[x509.Certificate] | None:
    """Return the certificates in a PEM file; None when a mistake was reported."""
    found = _read(path, name, report)
    if found is None:
        return None
    content, _mode = found
    try:
        certificates = x509.load_pem_x509_certificates(content)
    except ValueError:
        certificates = []
    if not certificates:
        has_key = b"PRIVATE KEY-----" in content
        report(
            name,
            f"{path}: holds a private key and no certificate"
            if has_key
            else f"{path}: holds no certificate in PEM",
            "are tls_cert and tls_key swapped?" if has_key and name == "tls_cert" else None,
        )
        return None
    return certificates


def _check_pair(cert: Path | None, key: Path | None, report: Report) -> None:
    """Check that the certificate and its key can be read and belong together."""
    certificates = None if cert is None else _load_certificates(cert, "tls_cert", report)
    private = None if key is None else _load_private_key(key, report)
    if private is None or not certificates:
        return
    public = _describe(private.public_key())
    keys = [_certified(certificate) for certificate in certificates]
    if public != keys[0]:
        report(
            "tls_key",
            "does not belong to the first certificate in tls_cert",
            "put the server's own certificate first in that file" if public in keys else None,
        )


def _certified(certificate: x509.Certificate) -> bytes:
    """Return a certificate's public key in DER; nothing for one of an unknown kind."""
    try:
        return _describe(certificate.public_key())
    except (ValueError, UnsupportedAlgorithm):
        return b""


def _describe(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _load_private_key(key: Path, report: Report) -> PrivateKeyTypes | None:
    """Return the private key in a PEM file; None when it cannot be had."""
    found = _read(key, "tls_key", report)
    if found is None:
        return None
    content, mode = found
    if mode & 0o007:
        report("tls_key", f"{key}: everyone can read this private key", chmod_advice(key))
    try:
        return load_pem_private_key(content, None)
    except TypeError:
        report(
            "tls_key",
            f"{key}: is protected by a passphrase",
            "openssl pkey -in KEY -out PLAIN removes it",
        )
    except (ValueError, UnsupportedAlgorithm):
        only_cert = b"BEGIN CERTIFICATE" in content and b"PRIVATE KEY" not in content
        report(
            "tls_key",
            f"{key}: holds a certificate and no private key"
            if only_cert
            else f"{key}: holds no private key in PEM",
            "are tls_cert and tls_key swapped?" if only_cert else None,
        )
    return None


def read_allowed_clients(path: Path) -> tuple[list[AllowedClient], list[ConfigurationError]]:
    """Read a file of public keys, one a line; a name may follow the key.

    Returns:
        The clients, and the mistakes, each with its line.

    Raises:
        ConfigurationError: The file cannot be read.
    """
    content, _mode = read_regular_file(path, MAX_CLIENTS_FILE)
    clients: list[AllowedClient] = []
    errors: list[ConfigurationError] = []
    first: dict[PublicKey, int] = {}
    for number, line in enumerate(content.decode("utf-8", "replace").split("\n"), 1):
        written = line.partition("#")[0].strip()
        if not written:
            continue
        problem, fix = "", None
        try:
            client = AllowedClient.parse(written)
        except ConfigurationError as error:
            problem, fix = error.problem, error.fix
        else:
            if client.key in first:
                problem = f"listed already on line {first[client.key]}"
            else:
                first[client.key] = number
                clients.append(client)
        if problem:
            errors.append(ConfigurationError(problem, file=str(path), line=number, fix=fix))
    return clients, errors
