"""``phantom genkey`` and ``phantom pubkey``, in the manner of ``wg``."""

from __future__ import annotations

import os
import stat
import sys

import click

#: The most that is read from standard input: a key is 44 characters.
MAX_INPUT = 4096


_IDENTITY = click.option(
    "--identity",
    is_flag=True,
    help="The key of a server's identity (Ed25519), which signs the list of its endpoints.",
)


@click.command()
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False),
    metavar="PATH",
    help="Write the key to a new file that only you can read, and print its public key.",
)
@_IDENTITY
def genkey(output: str | None, identity: bool) -> None:
    """Make a private key and print it."""
    from phantom.config.identity_keys import IdentityKey
    from phantom.config.key_files import write_private_file
    from phantom.config.keys import PrivateKey

    # The runtime's entropy is this very function; a command has no reactor for a Runtime.
    key = (IdentityKey if identity else PrivateKey).generate(os.urandom)
    if output is not None:
        write_private_file(output, f"{key.export()}\n")
        click.echo(str(key.public()))
        return
    _warn_of_open_output()
    click.echo(key.export())


def _warn_of_open_output() -> None:
    """Warn when standard output is a file that others can read: phantom will refuse it."""
    if sys.stdout is None:  # closed before the program began
        return
    try:
        status = os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):
        return
    if os.name == "posix" and stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
        click.echo(
            "phantom: warning: others can read the file this key goes to "
            "(chmod 600 it, or use --output PATH)",
            err=True,
        )


@click.command()
@_IDENTITY
def pubkey(identity: bool) -> None:
    """Read a private key on standard input and print its public key."""
    from phantom.config.identity_keys import IdentityKey
    from phantom.config.keys import PrivateKey
    from phantom.errors import ConfigurationError

    # None: standard input was closed before the program began.
    content = sys.stdin.buffer.read(MAX_INPUT + 1) if sys.stdin else b""
    if len(content) > MAX_INPUT:
        raise ConfigurationError(
            f"more than {MAX_INPUT} bytes, and a key has 44 characters", file="standard input"
        )
    try:
        key = (IdentityKey if identity else PrivateKey).parse(content.decode("utf-8", "replace"))
    except ConfigurationError as error:
        problem, fix = error.problem, error.fix
    else:
        click.echo(str(key.public()))
        return
    raise ConfigurationError(problem, file="standard input", fix=fix)
