"""X25519 keys: how they are written, kept in files and hidden from view.

A key is 32 raw bytes (RFC 7748, section 5), written in base64 with padding (RFC 4648,
section 4): 44 characters.  A private key shows itself only when `PrivateKey.export` is
called; no text of an error raised here repeats any part of what it read.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import re
import secrets
import shlex
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import attrs
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from phantom.errors import ConfigurationError

K = TypeVar("K")

#: Bytes of an X25519 key, private or public (RFC 7748, section 5).
KEY_SIZE = 32

#: The most that is read of a key file.  A key is 44 characters; the rest leaves room for
#: blank lines and comments, and keeps a wrong path (a disk image) out of memory.
MAX_KEY_FILE = 16 * 1024

#: Any fixed scalar shows a low-order point: clamping makes every scalar a multiple of the
#: cofactor, so the product is zero whichever is used (RFC 7748, section 6.1).
_PROBE_SCALAR = bytes(range(1, KEY_SIZE + 1))

_HEX_KEY = re.compile(r"(?:0x)?[0-9A-Fa-f]{64}")


def decode_key(text: str, noun: str, *, kind: str = "X25519", option: str = "") -> bytes:
    """Return the 32 bytes that `text` writes in base64.

    Args:
        text: What was written.
        noun: What it should be, for messages.
        kind: The curve, for messages.
        option: The option of ``phantom genkey`` that makes such keys, with a leading blank.

    Raises:
        ConfigurationError: It does not; the message names `noun` and the fault only.
    """
    text = text.strip()
    if not text:
        raise ConfigurationError(f"the {noun} is empty")
    if "-----BEGIN" in text:
        raise ConfigurationError(
            f"this is a PEM file, and the {noun} is 32 raw {kind} bytes in base64",
            fix=f'"phantom genkey{option}" makes a private key and "phantom pubkey{option}" its '
            "public key",
        )
    if _HEX_KEY.fullmatch(text):
        raise ConfigurationError(
            f"the {noun} is written in hexadecimal, and base64 is expected",
            fix="convert it with: xxd -r -p | base64",
        )
    if len(text) == 43 and not text.endswith("="):
        raise ConfigurationError(
            f'the {noun} lacks its last character, "="',
            fix="copy all 44 characters",
        )
    raw: bytes | None = None
    # No use of UnicodeEncodeError: it would carry the text along.
    with contextlib.suppress(binascii.Error):
        raw = base64.b64decode(text, validate=True) if text.isascii() else None
    if raw is None:
        raise ConfigurationError(
            f"the {noun} is not base64",
            fix="it is 44 characters: letters, digits, +, / and a final =",
        )
    if len(raw) != KEY_SIZE:
        raise ConfigurationError(
            f"the {noun} has {len(raw)} bytes, and {KEY_SIZE} are expected",
            fix="copy all 44 characters",
        )
    if base64.b64encode(raw).decode("ascii") != text:
        # The last character carries two bits that no byte uses; they must be zero, or one
        # key would have several spellings (RFC 4648, section 3.5).
        raise ConfigurationError(f"the {noun} is not base64: its end was altered")
    return raw


@attrs.frozen(slots=True, repr=False)
class PublicKey:
    """The public half of an X25519 key pair.

    Attributes:
        raw: 32 bytes; never a point of low order when made by `parse`.
    """

    raw: bytes = attrs.field()

    @raw.validator
    def _check(self, _attribute: object, value: bytes) -> None:
        if len(value) != KEY_SIZE:
            raise ValueError(f"a public key has {KEY_SIZE} bytes")

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Parse base64.

        Raises:
            ConfigurationError: It is no key, or one that agrees on the same secret with
                everybody (RFC 7748, section 6.1).
        """
        raw = decode_key(text, "public key")
        probe = X25519PrivateKey.from_private_bytes(_PROBE_SCALAR)
        try:
            probe.exchange(X25519PublicKey.from_public_bytes(raw))
        except ValueError:
            raise ConfigurationError(
                "the public key is a point of low order, which protects nothing",
                fix='"phantom pubkey" prints the public key of a private key',
            ) from None
        return cls(raw)

    def __str__(self) -> str:
        """Return the key in base64."""
        return base64.b64encode(self.raw).decode("ascii")

    def __repr__(self) -> str:
        return f"<PublicKey {self}>"


@attrs.frozen(slots=True, repr=False)
class PrivateKey:
    """The private half of an X25519 key pair.  Neither `str` nor `repr` shows it.

    Attributes:
        raw: 32 bytes, not clamped (X25519 clamps them as it reads them).
    """

    raw: bytes = attrs.field()

    @raw.validator
    def _check(self, _attribute: object, value: bytes) -> None:
        if len(value) != KEY_SIZE:
            raise ValueError(f"a private key has {KEY_SIZE} bytes")

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes]) -> PrivateKey:
        """Make a key.

        Args:
            entropy: ``entropy(n)`` returns n bytes fit for keys.
        """
        return cls(entropy(KEY_SIZE))

    @classmethod
    def parse(cls, text: str) -> PrivateKey:
        """Parse base64.

        Raises:
            ConfigurationError: It is no key.
        """
        raw = decode_key(text, "private key")
        if not any(raw):
            raise ConfigurationError(
                "the private key is all zeroes", fix='make one with "phantom genkey"'
            )
        return cls(raw)

    def public(self) -> PublicKey:
        """Return the public key that belongs to this one."""
        return PublicKey(
            X25519PrivateKey.from_private_bytes(self.raw).public_key().public_bytes_raw()
        )

    def export(self) -> str:
        """Return the key in base64: the one way to see it."""
        return base64.b64encode(self.raw).decode("ascii")

    def __str__(self) -> str:
        return "<PrivateKey hidden>"

    __repr__ = __str__


def tell_os_error(error: OSError | ValueError) -> str:
    """Return what an operating system error says, in lower case and without the path.

    Args:
        error: As raised by `os.open` and its kin; a `ValueError` is a NUL in the path, or none.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    return "not a possible file name"


def read_regular_file(path: str | os.PathLike[str], limit: int) -> tuple[bytes, int]:
    """Read a file, and its permissions in the same breath (no race between the two).

    Args:
        path: Neither a folder nor a device nor a pipe.
        limit: Bytes; a longer file is refused.

    Returns:
        The content, and the permission bits (0 where the platform has none).

    Raises:
        ConfigurationError: It cannot be read; ``file`` is `path`.
    """
    name = os.fspath(path)
    fix = None
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(name, flags | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        problem = f"cannot be read: {tell_os_error(error)}"
        if isinstance(error, FileNotFoundError):
            problem = "no such file"
        elif os.path.isdir(name):  # Windows refuses to open a folder at all
            problem = "this is a folder, and a file is expected"
        elif isinstance(error, PermissionError):
            # Above all at a reload, when --uid has taken away the right to read it.
            fix = 'the user this runs as must be able to read it; "ls -ln" shows who may'
    else:
        try:
            found = _read_open_file(descriptor, limit)
        finally:
            os.close(descriptor)
        if not isinstance(found, str):
            return found
        problem = found
    raise ConfigurationError(problem, file=name, fix=fix)


def _read_open_file(descriptor: int, limit: int) -> tuple[bytes, int] | str:
    """Return content and permission bits, or what is wrong."""
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        return "this is a folder, and a file is expected"
    if not stat.S_ISREG(status.st_mode):
        return "not a regular file"
    try:
        with open(descriptor, "rb", closefd=False) as stream:
            content = stream.read(limit + 1)
    except OSError as error:
        return f"cannot be read: {tell_os_error(error)}"
    if len(content) > limit:
        return f"longer than {limit} bytes, the most that is read"
    return content, stat.S_IMODE(status.st_mode) if os.name == "posix" else 0


def chmod_advice(path: str | os.PathLike[str]) -> str:
    """Return the command that hides the file from everyone but its owner."""
    return f"chmod 600 {shlex.quote(os.fspath(path))}"


def read_private_key_file(path: str | os.PathLike[str]) -> PrivateKey:
    """Read a private key from a file of its own, as ``phantom genkey`` writes it.

    Raises:
        ConfigurationError: As for `read_secret_file`.
    """
    return read_secret_file(path, PrivateKey.parse)


def read_secret_file(path: str | os.PathLike[str], parse: Callable[[str], K]) -> K:
    """Read a private key of any kind from a file of its own.

    Args:
        path: The file.
        parse: Makes the key of the file's text; raises `ConfigurationError`.

    Raises:
        ConfigurationError: It cannot be read, holds no key, or others than its owner have
            access to it; ``file`` is `path`.
    """
    name = os.fspath(path)
    content, mode = read_regular_file(path, MAX_KEY_FILE)
    if mode & 0o077:
        raise ConfigurationError(
            "others can read this private key", file=name, fix=chmod_advice(path)
        )
    try:
        return parse(content.decode("utf-8", "replace"))
    except ConfigurationError as error:
        problem, fix = error.problem, error.fix
    raise ConfigurationError(problem, file=name, fix=fix)


def write_private_file(path: str | os.PathLike[str], text: str) -> None:
    """Write a file that only its owner can read: whole or not at all, and never over another.

    The text goes to a temporary name in the same folder and to the disk; then a hard link
    gives it its name, which fails when the name is taken (even by a dangling symbolic
    link).  Where there are no hard links the file is made under its own name, exclusively.

    Raises:
        ConfigurationError: The name is taken, or the folder cannot be written to.
    """
    target = Path(path)
    data = text.encode("utf-8")
    try:
        # ValueError: a path without a name, such as an empty one.
        temporary = target.with_name(f".{target.name[:64]}.{secrets.token_hex(8)}")
        _write_exclusively(temporary, data)
        try:
            os.link(temporary, target)
        except FileExistsError:
            raise
        except OSError:
            _write_exclusively(target, data)
        finally:
            temporary.unlink()
        _sync_folder(target.parent)
    except FileExistsError:
        problem, fix = "already exists, and is not overwritten", "move it away or choose another"
    except (OSError, ValueError) as error:
        problem, fix = f"cannot be written: {tell_os_error(error)}", ""
    else:
        return
    raise ConfigurationError(problem, file=str(target), fix=fix or None)


def _write_exclusively(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o600)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _sync_folder(folder: Path) -> None:
    """Put the new name itself on the disk; not every platform opens folders."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
