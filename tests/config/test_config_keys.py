"""Keys: their spelling, their files, and that they stay hidden."""

from __future__ import annotations

import base64
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.config.identity_keys import IdentityKey, IdentityPublicKey
from phantom.config.key_files import read_private_key_file, read_regular_file, write_private_file
from phantom.config.keys import PrivateKey, PublicKey
from phantom.errors import ConfigurationError

# RFC 7748, section 6.1: Bob's keys.
BOB_PRIVATE = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
BOB_TEXT = base64.b64encode(BOB_PRIVATE).decode()


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def test_public_key_of_a_published_pair() -> None:
    assert PrivateKey.parse(BOB_TEXT).public().raw == BOB_PUBLIC
    assert str(PrivateKey(BOB_PRIVATE).public()) == b64(BOB_PUBLIC)


def test_a_generated_key_is_the_entropy_asked_for() -> None:
    asked = []

    def entropy(size: int) -> bytes:
        asked.append(size)
        return BOB_PRIVATE[:size]

    assert PrivateKey.generate(entropy).raw == BOB_PRIVATE
    assert asked == [32]


@given(st.binary(min_size=32, max_size=32).filter(any))
def test_export_and_parse_are_inverse(raw: bytes) -> None:
    assert PrivateKey.parse(f" {PrivateKey(raw).export()}\n").raw == raw


BASE64_FIX = "it is 44 characters: letters, digits, +, / and a final ="


@pytest.mark.parametrize(
    ("text", "problem", "fix"),
    [
        ("", "the private key is empty", None),
        (" \n", "the private key is empty", None),
        ("BASE64", "the private key is not base64", BASE64_FIX),
        ("not base64 at all", "the private key is not base64", BASE64_FIX),
        ("é" * 44, "the private key is not base64", BASE64_FIX),
        (BOB_TEXT.replace("+", "-").replace("/", "_"), "the private key is not base64", BASE64_FIX),
        (
            b64(BOB_PRIVATE[:31]),
            "the private key has 31 bytes, and 32 are expected",
            "copy all 44 characters",
        ),
        (
            b64(BOB_PRIVATE * 2),
            "the private key has 64 bytes, and 32 are expected",
            "copy all 44 characters",
        ),
        (
            BOB_TEXT[:-1],
            'the private key lacks its last character, "="',
            "copy all 44 characters",
        ),
        (BOB_TEXT[:-2] + "t=", "the private key is not base64: its end was altered", None),
        (
            BOB_PRIVATE.hex(),
            "the private key is written in hexadecimal, and base64 is expected",
            "convert it with: xxd -r -p | base64",
        ),
        (
            "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----",
            "this is a PEM file, and the private key is 32 raw X25519 bytes in base64",
            '"phantom genkey" makes a private key and "phantom pubkey" its public key',
        ),
        (b64(bytes(32)), "the private key is all zeroes", 'make one with "phantom genkey"'),
    ],
)
def test_mistakes_in_a_private_key(text: str, problem: str, fix: str | None) -> None:
    with pytest.raises(ConfigurationError) as caught:
        PrivateKey.parse(text)
    assert (caught.value.problem, caught.value.fix) == (problem, fix)


# RFC 7748, section 6.1, asks for the check of zero; these points are where it strikes:
# the orders 1, 2, 4 and 8, some of them not reduced.
@pytest.mark.parametrize(
    "point",
    [
        "00" * 32,
        "01" + "00" * 31,
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
        "00" * 31 + "80",
    ],
)
def test_points_of_low_order_are_no_public_keys(point: str) -> None:
    with pytest.raises(ConfigurationError, match="low order"):
        PublicKey.parse(b64(bytes.fromhex(point)))


@given(st.text(max_size=80))
def test_any_text_is_a_key_or_a_mistake(text: str) -> None:
    for parse in (PrivateKey.parse, PublicKey.parse):
        try:
            parse(text)
        except ConfigurationError as error:
            assert "\n" not in str(error)


def spoken(error: BaseException | None) -> str:
    """Return all that an error and what led to it could show."""
    seen = ""
    while error is not None:
        seen += f"{error} {error!r} {error.args} {vars(error)}"
        error = error.__cause__ or error.__context__
    return seen


@pytest.mark.parametrize("spoil", [lambda t: t[:-1], lambda t: t + "é", lambda t: t[:-2] + "t="])
def test_a_mistaken_key_is_in_no_part_of_the_error(spoil, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(spoil(BOB_TEXT))
    path.chmod(0o600)
    for attempt in (
        lambda: PrivateKey.parse(spoil(BOB_TEXT)),
        lambda: read_private_key_file(path),
    ):
        with pytest.raises(ConfigurationError) as caught:
            attempt()
        assert BOB_TEXT[:12] not in spoken(caught.value)


@pytest.mark.parametrize("kind", [PrivateKey, IdentityKey])
def test_a_private_key_shows_itself_on_request_only(kind: Callable[[bytes], Any]) -> None:
    key = kind(BOB_PRIVATE)
    shown = f"{key} {key!r} {[key]} {{{key!s}}} %s %r" % (key, key)
    assert BOB_TEXT not in shown
    assert repr(BOB_PRIVATE)[2:10] not in shown
    assert key.export() == BOB_TEXT


@pytest.mark.parametrize("kind", [PrivateKey, IdentityKey, PublicKey, IdentityPublicKey])
def test_a_key_has_32_bytes(kind: Callable[[bytes], Any]) -> None:
    for size in (0, 31, 33):
        with pytest.raises(ValueError, match="has 32 bytes"):
            kind(bytes(size))


def test_keys_of_different_kinds_are_different() -> None:
    for one, other in ((PrivateKey, IdentityKey), (PublicKey, IdentityPublicKey)):
        assert one(BOB_PRIVATE) == one(BOB_PRIVATE) != other(BOB_PRIVATE)


# -- files ------------------------------------------------------------------------------


def test_a_written_key_file_is_private_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "server.key"
    old = os.umask(0)
    try:
        write_private_file(path, BOB_TEXT + "\n")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_private_key_file(path).raw == BOB_PRIVATE
    assert os.listdir(tmp_path) == ["server.key"]


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "server.key"
    path.write_text("precious")
    with pytest.raises(ConfigurationError) as caught:
        write_private_file(path, BOB_TEXT)
    assert str(caught.value) == (
        f"{path}: already exists, and is not overwritten (move it away or choose another)"
    )
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["server.key"]


def test_a_dangling_link_is_not_written_through(tmp_path: Path) -> None:
    path = tmp_path / "server.key"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="already exists"):
        write_private_file(path, BOB_TEXT)
    assert not (tmp_path / "elsewhere").exists()


def test_without_hard_links_the_file_is_made_exclusively(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "server.key"
    write_private_file(path, BOB_TEXT)
    assert read_private_key_file(path).raw == BOB_PRIVATE
    with pytest.raises(ConfigurationError, match="already exists"):
        write_private_file(path, "other")
    assert os.listdir(tmp_path) == ["server.key"]


def test_a_folder_that_is_missing_is_a_clean_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be written: no such file or directory"):
        write_private_file(tmp_path / "missing" / "key", BOB_TEXT)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o620])
def test_a_key_that_others_can_read_is_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "my key"
    path.write_text(BOB_TEXT)
    path.chmod(mode)
    with pytest.raises(ConfigurationError) as caught:
        read_private_key_file(path)
    assert str(caught.value) == (f"{path}: others can read this private key (chmod 600 '{path}')")


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, problem in (
        (tmp_path / "fifo", "not a regular file"),
        (tmp_path, "this is a folder, and a file is expected"),
        (tmp_path / "missing", "no such file"),
        ("nul\0", "cannot be read: not a possible file name"),
        ("x" * 5000, "cannot be read: file name too long"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            read_regular_file(path, 100)
        assert caught.value.problem == problem


def test_a_file_of_somebody_else_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigurationError) as caught:
        read_regular_file(tmp_path / "file", 100)
    assert caught.value.problem == "cannot be read: permission denied"
    assert "must be able to read it" in (caught.value.fix or "")


def test_a_file_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"x" * 100)
    assert read_regular_file(path, 100)[0] == b"x" * 100
    with pytest.raises(ConfigurationError, match="longer than 99 bytes"):
        read_regular_file(path, 99)
