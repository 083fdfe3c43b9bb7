"""The client's memory of a server's endpoints, in one small file.

It holds the newest list that the server has signed, and what worked on which network.  The
file is 0600, replaced whole, and worth nothing to whoever writes to it: the list is verified
again when it is read, and the rest decides only in which order things are tried.  Without a
folder to write to, everything works until the process ends.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import stat
from pathlib import Path

import attrs

from phantom.core.endpoint_choice import EndpointChoice
from phantom.crypto.identity import MAX_SIGNED_SIZE
from phantom.telemetry import make_logger

log = make_logger()

#: The only form of the file there is so far.
FORMAT = 1
#: The most that is read: a full table of what worked takes about 400 kB.
MAX_FILE = 1024 * 1024


@attrs.define(slots=True)
class Memory:
    """What is remembered.

    Attributes:
        signed: The newest signed list, not verified; empty without one.
        configured: What the client's own file said when that list came (`fingerprint`).
        choice: What worked where.
    """

    signed: bytes = b""
    configured: str = ""
    choice: EndpointChoice = attrs.field(factory=EndpointChoice)


def fingerprint(*parts: bytes) -> str:
    """Return a short text that tells one sequence of byte strings from another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.hexdigest()[:32]


class MemoryFile:
    """Where it is kept.

    Args:
        folder: Made when there is something to write.
        name: Tells the servers apart that one user has: a `fingerprint`.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"endpoints-{name[:16]}.json"
        self._complained = False

    def load(self) -> Memory:
        """Return what is remembered; nothing when the file is missing or damaged."""
        try:
            content = read_private(self.path)
        except FileNotFoundError:
            return Memory()
        except OSError as error:
            return self._ignored(error.strerror or "it cannot be read")
        try:
            return _parse(content)
        except (ValueError, RecursionError):  # bad JSON, base64 and UTF-8 included
            return self._ignored("it is damaged")

    def _ignored(self, why: str) -> Memory:
        log.warn("{path} is ignored: {why}", path=str(self.path), why=why)
        return Memory()

    def save(self, memory: Memory) -> None:
        """Replace the file; a failure is told once and otherwise of no consequence."""
        text = json.dumps(
            {
                "format": FORMAT,
                "signed": base64.b64encode(memory.signed).decode("ascii"),
                "configured": memory.configured,
                "worked": memory.choice.to_json(),
            }
        )
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_private(self.path, text.encode("ascii"))
        except OSError as error:
            if not self._complained:
                log.warn(
                    "{path} cannot be written: {why}; the endpoints are forgotten when the "
                    "client stops",
                    path=str(self.path),
                    why=error.strerror or "an operation failed",
                )
            self._complained = True
        else:
            self._complained = False


def read_private(path: Path) -> bytes:
    """Return the content of a small file.

    Raises:
        OSError: It cannot be read, is no regular file, or is too long.
    """
    # O_NONBLOCK: opening a FIFO must not wait for a writer.
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is no regular file")
        content = stream.read(MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise OSError(0, "it is too long")
    return content


def replace_private(path: Path, data: bytes) -> None:
    """Write the whole file under another name and to the disk, then give it its own."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()  # of a process that died
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(temporary, flags | getattr(os, "O_BINARY", 0), 0o600)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _parse(content: bytes) -> Memory:
    value = json.loads(content)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ValueError("another format")
    signed, configured = value.get("signed"), value.get("configured")
    if not isinstance(signed, str) or not isinstance(configured, str):
        raise ValueError("a field is missing")
    raw = base64.b64decode(signed, validate=True)
    if len(raw) > MAX_SIGNED_SIZE:
        raise ValueError("a list that is too long")
    return Memory(raw, configured, EndpointChoice.from_json(value.get("worked")))
