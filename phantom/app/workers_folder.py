"""The folder where the sockets are by which a server's workers reach one another."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
from pathlib import Path

#: Longest path of the sockets' folder: ``sun_path`` has 108 bytes (unix(7)), on some systems
#: 104, and the names in it up to 11.
MAX_FOLDER = 90
#: What the folder's name begins with.
FOLDER_PREFIX = "phantom-workers-"


def make_folder(state_dir: Path) -> Path:
    """Make a folder for the workers' sockets that nobody else may enter.

    It is in the state directory where that may be written and its path is short enough for
    the address of a socket, and among temporary files otherwise.  What a server that was
    killed left in either place is removed.
    """
    _sweep(state_dir)
    _sweep(Path(tempfile.gettempdir()))
    with contextlib.suppress(OSError):
        folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=state_dir))
        if len(os.fsencode(folder)) <= MAX_FOLDER:
            return folder
        folder.rmdir()
    return Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))


def _sweep(place: Path) -> None:
    """Remove folders of this user's in which nobody listens any more."""
    with contextlib.suppress(OSError):
        for folder in place.glob(f"{FOLDER_PREFIX}*"):
            with contextlib.suppress(OSError):
                _remove_deserted(folder)


def _remove_deserted(folder: Path) -> None:
    """Remove a folder of this user's that has nothing in it but sockets without a listener.

    Among temporary files everybody may write, and put a link to something of ours in the place
    of a folder at any moment.  So what was looked at is held open, and nothing else is touched.

    Raises:
        OSError: It is a link or no folder, or cannot be looked at.
    """
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        names = os.listdir(held)
        modes = [os.stat(name, dir_fd=held, follow_symlinks=False).st_mode for name in names]
        deserted = (
            os.fstat(held).st_uid == os.geteuid()
            and bool(names)  # an empty one may be another server's that has just begun
            and all(map(stat.S_ISSOCK, modes))
            and not any(_answers(folder / name) for name in names)
        )
        if deserted:
            for name in names:
                os.unlink(name, dir_fd=held)
    finally:
        os.close(held)
    if deserted:
        folder.rmdir()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fsencode(path))
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            return True  # it has more to accept than it comes to
    return True
