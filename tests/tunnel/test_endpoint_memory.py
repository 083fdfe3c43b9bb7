"""The client's file of endpoints: written whole, read with distrust, and dispensable."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.core.endpoint_choice import EndpointChoice
from phantom.tunnel import endpoint_memory
from phantom.tunnel.endpoint_memory import MAX_FILE, Memory, MemoryFile, fingerprint

T = 1_767_225_600.0


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    told: list[str] = []
    monkeypatch.setattr(
        endpoint_memory.log, "warn", lambda text, **fields: told.append(text.format(**fields))
    )
    return told


def memory() -> Memory:
    choice = EndpointChoice()
    choice.worked("tcp a:1 00", "198.51.100.0/24", T)
    return Memory(b"signed\xff", "0123", choice)


def test_what_is_saved_is_loaded(tmp_path: Path, warnings: list[str]) -> None:
    file = MemoryFile(tmp_path / "state" / "deep", "name" * 8)
    assert file.load().signed == b"" and not warnings
    file.save(memory())
    again = MemoryFile(tmp_path / "state" / "deep", "name" * 8).load()
    assert (again.signed, again.configured) == (b"signed\xff", "0123")
    assert again.choice.to_json() == memory().choice.to_json()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert os.listdir(file.path.parent) == [file.path.name], "no temporary file is left"
    assert not warnings


def test_the_file_is_replaced_and_never_written_into(tmp_path: Path) -> None:
    file = MemoryFile(tmp_path, "n")
    file.save(memory())
    with open(file.path, "rb") as old:
        file.save(Memory())
        assert json.loads(old.read())["configured"] == "0123"
    assert file.load().configured == ""


def test_what_a_dead_process_left_is_no_obstacle(tmp_path: Path) -> None:
    file = MemoryFile(tmp_path, "n")
    (tmp_path / f".{file.path.name}.{os.getpid()}").write_text("half")
    file.save(memory())
    assert file.load().configured == "0123"


GOOD = {"format": 1, "signed": "AAAA", "configured": "", "worked": {}}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[" * 100_000,
        b"{" + b" " * MAX_FILE,
        *(
            json.dumps({**GOOD, **change}).encode()
            for change in (
                {"format": 2},
                {"signed": None},
                {"signed": "not base64!"},
                {"signed": "A" * 12_000},
                {"signed": "\u00e4"},
                {"configured": 5},
                {"worked": None},
                {"worked": {"n": {"e": [1]}}},
            )
        ),
    ],
)
def test_a_damaged_file_is_ignored_with_one_line(
    content: bytes, tmp_path: Path, warnings: list[str]
) -> None:
    file = MemoryFile(tmp_path, "n")
    file.path.write_bytes(content)
    assert file.load().signed == b""
    assert len(warnings) == 1 and "ignored" in warnings[0]
    file.save(memory())
    assert file.load().configured == "0123"


@given(st.binary(max_size=200))
def test_random_bytes_are_ignored(tmp_path_factory, data: bytes) -> None:
    file = MemoryFile(tmp_path_factory.getbasetemp(), "random")
    file.path.write_bytes(data)
    assert file.load().signed == b""


def test_no_regular_file_is_waited_for(tmp_path: Path, warnings: list[str]) -> None:
    file = MemoryFile(tmp_path, "n")
    os.mkfifo(file.path)
    assert file.load().signed == b""
    assert len(warnings) == 1 and "no regular file" in warnings[0]


def test_without_a_folder_to_write_to_it_complains_once(
    tmp_path: Path, warnings: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    file = MemoryFile(tmp_path / "file" / "state", "n")
    assert file.load().signed == b""
    told = len(warnings)
    file.save(memory())
    file.save(memory())
    assert len(warnings) == told + 1 and "cannot be written" in warnings[-1]


def test_fingerprints_tell_sequences_apart() -> None:
    made = {fingerprint(), fingerprint(b""), fingerprint(b"ab"), fingerprint(b"a", b"b")}
    assert len(made) == 4 and all(len(text) == 32 for text in made)
