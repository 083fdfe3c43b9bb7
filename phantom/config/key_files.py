"""Files that hold secrets: read with their permissions, written whole and for their owner only."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from phantom.config.keys import PrivateKey
from phantom.errors import ConfigurationError

K = TypeVar("K")

#: The most that is read of a key file.  A key is 44 characters; the rest leaves room for
#: blank lines and comments, and keeps a wrong path (a disk image) out of memory.
MAX_KEY_FILE = 16 * 1024


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
