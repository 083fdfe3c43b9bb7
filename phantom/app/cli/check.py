"""``phantom check``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from phantom.config.schema import ClientFile, ServerFile
    from phantom.config.schema_client import ClientConfig
    from phantom.config.schema_server import ServerConfig


@click.command()
@click.argument("file", type=click.Path())
@click.option("--quiet", "-q", is_flag=True, help="Print nothing when the file is right.")
def check(file: str, quiet: bool) -> None:
    """Check a server's or a client's FILE and print the settings in effect.

    Every mistake is told, one a line, on standard error. The exit status is 0 when there is
    none and 1 otherwise. Secrets are not shown.
    """
    from phantom.config.load import load_any

    loaded = load_any(file)
    for warning in _warnings(loaded):
        click.echo(f"phantom: {file}: warning: {warning}", err=True)
    if not quiet:
        click.echo(_describe(loaded, file))


def _describe(loaded: ServerFile | ClientFile, file: str) -> str:
    from phantom.config.schema import ServerFile
    from phantom.config.template import effective

    name, table = (
        ("server", loaded.server) if isinstance(loaded, ServerFile) else ("client", loaded.client)
    )
    identity = getattr(table, "identity_key", None)
    return "\n".join(
        (
            f"# {file}: a valid {name} file; these settings are in effect",
            f"# the {name}'s public key: {table.private_key.public()}",
            *([f"# the {name}'s identity: {identity.public()}"] if identity else []),
            "",
            effective(table, name),
            "",
            effective(loaded.logging, "logging"),
        )
    )


def _warnings(loaded: ServerFile | ClientFile) -> list[str]:
    """Return what is allowed and yet probably not meant."""
    from phantom.config.schema import ServerFile

    if not isinstance(loaded, ServerFile):
        return _profile_warnings(loaded.client)
    warnings = []
    if not loaded.server.allowed_clients:
        warnings.append(
            "nobody is admitted: allowed_clients is empty (put clients' public keys there)"
        )
    warnings.extend(_certificate_warnings(loaded.server))
    return warnings


def _profile_warnings(client: ClientConfig) -> list[str]:
    from phantom.carriers.tls_client import profile_warning

    if client.tls_sni is None:
        return []
    warning = profile_warning(client.tls_profile, time.time())
    return [] if warning is None else [warning]


def _certificate_warnings(server: ServerConfig) -> list[str]:
    from cryptography.x509 import load_pem_x509_certificates

    from phantom.config.key_files import read_regular_file
    from phantom.config.rules import MAX_PEM_FILE

    if server.tls_cert is None:
        return []
    content, _mode = read_regular_file(server.tls_cert, MAX_PEM_FILE)
    leaf = load_pem_x509_certificates(content)[0]
    now = time.time()
    if leaf.not_valid_after_utc.timestamp() < now:
        return [f"the certificate expired on {leaf.not_valid_after_utc:%Y-%m-%d} (renew it)"]
    if leaf.not_valid_before_utc.timestamp() > now:
        return [
            f"the certificate begins to hold on {leaf.not_valid_before_utc:%Y-%m-%d} only "
            "(is this machine's clock right?)"
        ]
    return []
