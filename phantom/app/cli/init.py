"""``phantom init server`` and ``phantom init client``."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from phantom.config.keys import PublicKey
    from phantom.config.schema import ClientFile, ServerFile

F = TypeVar("F", "ServerFile", "ClientFile")

_OUTPUT = click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False),
    metavar="PATH",
    help="Where to write the file; by default where this platform keeps configuration.",
)


@click.group()
def init() -> None:
    """Write a commented configuration file with fresh keys.

    The file is readable by you alone, and no file is ever overwritten.
    """


@init.command()
@_OUTPUT
@click.option("--listen", multiple=True, metavar="ADDRESS:PORT", help="Default: 0.0.0.0:443.")
@click.option("--tls-cert", metavar="PATH", help="Certificate chain in PEM: clients use TLS.")
@click.option("--tls-key", metavar="PATH", help="The certificate's private key in PEM.")
@click.option("--decoy", metavar="URL|FOLDER", help="What anyone who is no client gets.")
@click.option("--state-dir", metavar="PATH", help="Where the server keeps its state.")
@click.option(
    "--allow-client",
    "allowed_clients",
    multiple=True,
    metavar="KEY",
    help='A client\'s public key, or "KEY NAME"; may be repeated.',
)
@click.option(
    "--identity", is_flag=True, help="Also make an identity, which signs the list of endpoints."
)
def server(
    output: str | None,
    listen: tuple[str, ...],
    tls_cert: str | None,
    tls_key: str | None,
    decoy: str | None,
    state_dir: str | None,
    allowed_clients: tuple[str, ...],
    identity: bool,
) -> None:
    """Write a server's file."""
    from phantom.config.identity_keys import IdentityKey
    from phantom.config.kinds import quote
    from phantom.config.places import system_config_folder, user_config_folder
    from phantom.config.schema import ServerFile
    from phantom.config.template import server_template
    from phantom.config.values import ListenAddress

    superuser = hasattr(os, "geteuid") and os.geteuid() == 0
    folder = system_config_folder() if superuser else user_config_folder()
    path = Path(output if output is not None else folder / "server.toml")
    values = {
        "listen": _list(listen) if len(listen) > 1 else quote((*listen, "0.0.0.0:443")[0]),
        "allowed_clients": _list(allowed_clients),
    }
    for name, given in (("tls_cert", tls_cert), ("tls_key", tls_key), ("state_dir", state_dir)):
        if given is not None:
            values[name] = quote(_absolute(given))
    if decoy is not None:
        values["decoy"] = quote(decoy if "://" in decoy else _absolute(decoy))
    key = _fresh_key(values)
    known_by = ""
    if identity:
        identity_key = IdentityKey.generate(os.urandom)
        values["identity_key"] = quote(identity_key.export())
        known_by = f" --server-identity {identity_key.public()}"
    loaded = _write(path, server_template, values, ServerFile)
    shown = shlex.quote(str(path))
    click.echo(f"wrote {path}")
    click.echo(f"the server's public key: {key}")
    click.echo("")
    click.echo("On each client's machine:")
    port = next((a.port for a in loaded.server.listen if isinstance(a, ListenAddress)), 443)
    tls = " --tls-sni NAME" if loaded.server.tls_cert else ""
    command = f"phantom init client --server HOST:{port} --server-public-key {key}"
    click.echo(f"  {command}{known_by}{tls}")
    if not loaded.server.allowed_clients:
        click.echo("It prints the client's public key: put it into allowed_clients in")
        click.echo(f"{path}; until then nobody is admitted.")
    click.echo("Then start the server:")
    click.echo(f"  twistd phantom-server --config {shown}")
    unit = Path(sys.prefix, "share", "phantom", "phantom-server.service")
    if unit.exists():
        click.echo(f"or let systemd start it; a unit to adapt is {unit}")


@init.command()
@_OUTPUT
@click.option("--server", "address", required=True, metavar="HOST:PORT", help="The server.")
@click.option(
    "--server-public-key", required=True, metavar="KEY", help="As the server's init printed it."
)
@click.option(
    "--server-identity",
    metavar="KEY",
    help="As the server's init printed it: take the server's own list of its endpoints.",
)
@click.option("--socks5-listen", metavar="ADDRESS:PORT", help="Default: 127.0.0.1:1080.")
@click.option("--http-listen", metavar="ADDRESS:PORT", help="Default: 127.0.0.1:8080.")
@click.option("--tls-sni", metavar="NAME", help="Use TLS, with this name. Otherwise: bare TCP.")
@click.option("--tls-ca", metavar="PATH", help="Authorities to trust besides the system's.")
@click.option("--tls-pin", metavar="sha256/BASE64", help="Trust this key and no authority.")
def client(
    output: str | None,
    address: str,
    server_public_key: str,
    server_identity: str | None,
    socks5_listen: str | None,
    http_listen: str | None,
    tls_sni: str | None,
    tls_ca: str | None,
    tls_pin: str | None,
) -> None:
    """Write a client's file."""
    from phantom.config.kinds import quote
    from phantom.config.places import client_config_candidates
    from phantom.config.schema import ClientFile
    from phantom.config.template import client_template

    path = Path(output if output is not None else client_config_candidates()[0])
    given = {
        "server": address,
        "server_public_key": server_public_key,
        "server_identity": server_identity,
        "socks5_listen": socks5_listen,
        "http_listen": http_listen,
        "tls_sni": tls_sni,
        "tls_ca": tls_ca and _absolute(tls_ca),
        "tls_pin": tls_pin,
    }
    values = {name: quote(value) for name, value in given.items() if value is not None}
    key = _fresh_key(values)
    loaded = _write(path, client_template, values, ClientFile)
    click.echo(f"wrote {path}")
    click.echo(f"the client's public key: {key}")
    click.echo("")
    click.echo("Put that key into allowed_clients in the server's file. Then start the client:")
    option = f" --config {shlex.quote(str(path))}" if output else ""
    click.echo(f"  twistd -n phantom-client{option}")
    for name, listen in (
        ("SOCKS5", loaded.client.socks5_listen),
        ("HTTP", loaded.client.http_listen),
    ):
        if listen is not None:
            click.echo(f"{name} proxy: {listen}")


def _list(items: tuple[str, ...]) -> str:
    from phantom.config.kinds import quote

    return f"[{', '.join(map(quote, items))}]"


def _absolute(path: str) -> str:
    """Return an option's path from the current folder; in the file it would start there."""
    return os.path.abspath(os.path.expanduser(path))


def _fresh_key(values: dict[str, str]) -> PublicKey:
    """Put a new private key into `values` and return its public key."""
    from phantom.config.keys import PrivateKey
    from phantom.config.kinds import quote

    # The runtime's entropy is this very function; a command has no reactor for a Runtime.
    key = PrivateKey.generate(os.urandom)
    values["private_key"] = quote(key.export())
    return key.public()


#: Options that are not called like the key they set.
_OPTIONS = {"allowed_clients": "--allow-client"}


def _write(
    path: Path,
    template: Callable[[Mapping[str, str]], str],
    values: Mapping[str, str],
    kind: type[F],
) -> F:
    """Check what the options amount to, write the file, and return what was loaded.

    Raises:
        ConfigurationError: The file exists or cannot be written.
        ConfigurationErrors: Mistakes in the options, named as such.
    """
    from phantom.config.document import parse_document
    from phantom.config.key_files import tell_os_error, write_private_file
    from phantom.config.load import load_document
    from phantom.errors import ConfigurationError, ConfigurationErrors

    text = template(values)
    folder = Path(os.path.abspath(path)).parent
    try:
        loaded = load_document(parse_document(text, str(path), folder), kind)
    except ConfigurationErrors as errors:
        found = errors.errors
    else:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            problem = f"the folder cannot be made: {tell_os_error(error)}"
        else:
            write_private_file(path, text)
            return loaded
        raise ConfigurationError(problem, file=str(folder))
    mistakes = []
    for mistake in found:
        name = (mistake.key or "").partition(".")[2].partition("[")[0]
        option = _OPTIONS.get(name, f"--{name.replace('_', '-')}")
        mistakes.append(ConfigurationError(mistake.problem, key=option, fix=mistake.fix))
    raise ConfigurationErrors(mistakes)
