"""What a server does with folders that an earlier one may have left, where others write too."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from phantom.app.workers_folder import FOLDER_PREFIX, make_folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files; the state directory is elsewhere."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


@pytest.fixture
def state(tmp_path: Path) -> Path:
    state = tmp_path / "state"
    state.mkdir()
    return state


def bound(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fsencode(path))
    return listener


def test_what_a_killed_server_left_is_removed(place: Path, state: Path) -> None:
    left = place / f"{FOLDER_PREFIX}left"
    left.mkdir()
    bound(left / "1").close()
    bound(left / "2").close()
    made = make_folder(state)
    assert not left.exists()
    assert made.stat().st_mode & 0o777 == 0o700


def test_what_is_in_use_stays(place: Path, state: Path) -> None:
    used = place / f"{FOLDER_PREFIX}used"
    used.mkdir()
    bound(used / "1").close()
    with bound(used / "2") as listener:
        listener.listen(1)
        make_folder(state)
        assert len(list(used.iterdir())) == 2


def test_a_server_too_busy_to_accept_is_there(place: Path, state: Path) -> None:
    used = place / f"{FOLDER_PREFIX}used"
    used.mkdir()
    with bound(used / "1") as listener, socket.socket(socket.AF_UNIX) as first:
        listener.listen(0)
        first.connect(os.fsencode(used / "1"))  # all that fits
        make_folder(state)
        assert list(used.iterdir())


def test_other_files_stay(place: Path, state: Path) -> None:
    folder = place / f"{FOLDER_PREFIX}files"
    folder.mkdir()
    (folder / "1").write_text("precious")
    make_folder(state)
    assert (folder / "1").read_text() == "precious"


def test_a_link_put_there_at_the_last_moment_is_not_followed(
    place: Path, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else's folder becomes a link to one of ours between the look and the removal."""
    precious = tmp_path / "precious"
    precious.mkdir()
    bound(precious / "socket").close()
    trap = place / f"{FOLDER_PREFIX}trap"
    trap.mkdir()
    glob = Path.glob

    def swapped(path: Path, pattern: str) -> list[Path]:
        found = list(glob(path, pattern))
        if trap in found:
            trap.rmdir()
            trap.symlink_to(precious)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Path, "glob", swapped)
        patch.setattr(Path, "is_symlink", lambda path: False)
        make_folder(state)
    assert list(precious.iterdir())


def test_one_folder_in_the_way_keeps_no_other(place: Path, state: Path) -> None:
    for name in ("a", "z"):
        odd = place / f"{FOLDER_PREFIX}{name}" / "folder"
        odd.mkdir(parents=True)
    left = place / f"{FOLDER_PREFIX}m"
    left.mkdir()
    bound(left / "1").close()
    make_folder(state)
    assert not left.exists()
