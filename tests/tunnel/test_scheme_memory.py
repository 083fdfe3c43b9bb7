"""The padding scheme that a server pushes: when it is used, and what is kept of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from phantom.core.shaping import Scheme
from phantom.errors import RemoteProtocolError
from phantom.tunnel.scheme_memory import SchemeMemory


def test_a_pushed_scheme_is_used_from_the_next_link_on_and_after_a_start(tmp_path: Path) -> None:
    memory = SchemeMemory(tmp_path / "state", "a" * 32)
    assert memory.scheme() == Scheme()
    assert not (tmp_path / "state").exists(), "nothing to write, nothing written"
    pushed = Scheme(version=2, low=3500, high=3500)
    memory.learn(pushed.encode())
    assert memory.scheme() == pushed
    assert memory.path.stat().st_mode & 0o777 == 0o600
    assert SchemeMemory(tmp_path / "state", "a" * 32).scheme() == pushed
    assert SchemeMemory(tmp_path / "state", "b" * 32).scheme() == Scheme()


def test_an_older_scheme_changes_nothing(tmp_path: Path) -> None:
    memory = SchemeMemory(tmp_path, "a" * 32)
    memory.learn(Scheme(version=5, share=1).encode())
    memory.learn(Scheme(version=5, share=2).encode())
    memory.learn(Scheme(version=4, share=3).encode())
    assert memory.scheme().share == 1


def test_a_damaged_file_and_a_wrong_push_are_of_no_consequence(tmp_path: Path) -> None:
    memory = SchemeMemory(tmp_path, "a" * 32)
    memory.path.write_bytes(b"\xff not hex")
    assert memory.scheme() == Scheme()
    with pytest.raises(RemoteProtocolError):
        memory.learn(Scheme(version=9, share=1000).encode())
    assert memory.scheme() == Scheme()


def test_a_folder_that_cannot_be_written_costs_only_the_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    memory = SchemeMemory(tmp_path / "file" / "state", "a" * 32)
    memory.learn(Scheme(version=1, share=1).encode())
    assert memory.scheme().share == 1
