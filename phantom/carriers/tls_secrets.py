"""The traffic secrets of TLS 1.3, from where the engines tell them: their key log.

Its lines are those of the SSLKEYLOGFILE format (RFC 9850): ``label client_random secret``, the last
two in hexadecimal.  OpenSSL calls with each line; BoringSSL's package writes them to a path, which
here is that of a pipe, so nothing is stored: what a handshake has written is read at once.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Any

import attrs

from phantom.crypto.tls13 import SUITES, Manners, Suite

_CLIENT_LABEL = b"CLIENT_TRAFFIC_SECRET_0"
_SERVER_LABEL = b"SERVER_TRAFFIC_SECRET_0"

#: All that a pipe may hold (pipe(7)); a handshake writes five lines of at most 194 bytes.
_READ_SIZE = 65536


@attrs.frozen(slots=True, repr=False)
class TrafficSecrets:
    """What the two sides seal application data with.

    Attributes:
        suite: The cipher suite.
        send: The secret of what this side sends.
        receive: The secret of what the peer sends.
        manners: Those of the library that tells them.
    """

    suite: Suite
    send: bytes
    receive: bytes
    manners: Manners


class KeyLog:
    """The two application traffic secrets among the lines about one connection."""

    __slots__ = ("_secrets",)

    def __init__(self) -> None:
        self._secrets: dict[bytes, bytes] = {}

    def add(self, lines: bytes) -> None:
        """Take whole lines."""
        for line in lines.splitlines():
            label, _, rest = line.partition(b" ")
            if label in (_CLIENT_LABEL, _SERVER_LABEL):
                self._secrets[label] = bytes.fromhex(rest.rpartition(b" ")[2].decode("ascii"))

    def secrets(
        self, suite: str | None, manners: Manners, *, server: bool
    ) -> TrafficSecrets | None:
        """Return the secrets, or None if they, or the suite, are not known.

        Args:
            suite: The suite's name.
            manners: Of the library.
            server: Whether this side is the server.
        """
        known = SUITES.get(suite or "")
        ours = self._secrets.get(_CLIENT_LABEL)
        theirs = self._secrets.get(_SERVER_LABEL)
        if known is None or ours is None or theirs is None:
            return None
        if server:
            ours, theirs = theirs, ours
        return TrafficSecrets(known, ours, theirs, manners)


class _Pipe:
    """A pipe of this process that has a path."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        self.path = f"/dev/fd/{self._writer}"

    def read(self) -> bytes:
        with contextlib.suppress(BlockingIOError):
            return os.read(self._reader, _READ_SIZE)
        return b""

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


# One for all contexts of the process: handshakes take turns, and each reads what it has written.
_pipe: _Pipe | None = None


class KeyLogPipe:
    """Has a context of BoringSSL's package log its keys.

    Args:
        context: What has a ``keylog_filename``; where that fails, nothing is logged.
    """

    __slots__ = ("_context", "_pipe")

    def __init__(self, context: Any) -> None:
        self._context = context
        self._pipe: _Pipe | None = None

    def read(self) -> bytes:
        """Return what was logged since the last call, by any context."""
        return b"" if self._pipe is None else self._pipe.read()

    def begin(self) -> None:
        """Have it log into this process' pipe; call it before every handshake."""
        global _pipe
        pid = os.getpid()
        if self._pipe is not None and self._pipe.pid == pid:
            return
        # A worker that was forked must not share a pipe with its siblings.
        try:
            if _pipe is None or _pipe.pid != pid:
                if _pipe is not None:
                    _pipe.close()
                _pipe = _Pipe()
            if not stat.S_ISFIFO(os.stat(_pipe.path).st_mode):
                raise OSError("no pipe has a path here")
            self._context.keylog_filename = _pipe.path
        except (OSError, AttributeError):
            self._pipe = None
        else:
            self._pipe = _pipe
