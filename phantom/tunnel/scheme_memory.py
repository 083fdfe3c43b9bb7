"""The client's memory of the padding scheme that its server has pushed, in one small file.

The scheme comes in a SCHEME frame (doc/spec/wire.md), by a link whose other end has proven to
be the server.  It is used from the next link on, and kept so that the first link after a start
has it too.  What a file says is checked like what a server says.
"""

from __future__ import annotations

from pathlib import Path

from phantom.core.shaping import Scheme
from phantom.errors import RemoteProtocolError
from phantom.telemetry import make_logger
from phantom.tunnel.endpoint_memory import read_private, replace_private

log = make_logger()


class SchemeMemory:
    """What one server has pushed.

    Args:
        folder: Made when there is something to write.
        name: Tells the servers apart that one user has.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"padding-{name[:16]}"
        self._scheme: Scheme | None = None

    def scheme(self) -> Scheme:
        """Return the figures for the next link."""
        if self._scheme is None:
            self._scheme = self._load()
        return self._scheme

    def _load(self) -> Scheme:
        try:
            return Scheme.decode(bytes.fromhex(read_private(self.path).decode("ascii")))
        except FileNotFoundError:
            return Scheme()
        except (OSError, ValueError, RemoteProtocolError):
            log.warn("{path} is ignored: it is damaged", path=str(self.path))
            return Scheme()

    def learn(self, payload: bytes) -> None:
        """Take what the server has pushed, if it is newer than what is known.

        Raises:
            RemoteProtocolError: It is cut short, or its figures are out of bounds.
        """
        pushed = Scheme.decode(payload)
        if pushed.version <= self.scheme().version:
            return
        self._scheme = pushed
        log.info("the server has sent version {version} of its padding", version=pushed.version)
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_private(self.path, pushed.encode().hex().encode("ascii"))
        except OSError as error:
            log.warn(
                "{path} cannot be written: {why}; the padding scheme is forgotten when the "
                "client stops",
                path=str(self.path),
                why=error.strerror or "an operation failed",
            )
