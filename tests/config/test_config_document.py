"""TOML files as read: where each key stands, and what is no TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phantom.config.document import dotted, key_lines, parse_document, read_document
from phantom.errors import ConfigurationError


def lines(text: str) -> dict[tuple[str | int, ...], int]:
    return parse_document(text, "f", Path("/")).lines


def test_lines_of_keys_tables_and_items() -> None:
    text = '''\
# a comment = 1
top = 1

[server]   # [not.a.table]
listen = [
  "a", # b = 2
  "c, d = [",

  ["e", "f"], { x = 1 },
]
text = """
fake = 1
[fake]
"""
literal = \'\'\'
fake = 2\'\'\'
'quoted key' = 1
"with \\" quote" = 2
a.b.c = 3
a . "d.e" = 4
time = 12:30:01
[server.egress]
allow = []
[[list]]
x = 1
[[list]]
x = 2
[ spaced . "out" ]
y = { z = 1, w = [1, 2] }
'''
    assert lines(text) == {
        ("top",): 2,
        ("server",): 4,
        ("server", "listen"): 5,
        ("server", "listen", 0): 6,
        ("server", "listen", 1): 7,
        ("server", "listen", 2): 9,
        ("server", "listen", 3): 9,
        ("server", "text"): 11,
        ("server", "literal"): 15,
        ("server", "quoted key"): 17,
        ("server", 'with " quote'): 18,
        ("server", "a"): 19,
        ("server", "a", "b"): 19,
        ("server", "a", "b", "c"): 19,
        ("server", "a", "d.e"): 20,
        ("server", "time"): 21,
        ("server", "egress"): 22,
        ("server", "egress", "allow"): 23,
        ("list",): 24,
        ("list", 0): 24,
        ("list", 0, "x"): 25,
        ("list", 1): 26,
        ("list", 1, "x"): 27,
        ("spaced",): 28,
        ("spaced", "out"): 28,
        ("spaced", "out", "y"): 29,
    }


def test_windows_line_ends() -> None:
    assert lines("[a]\r\nb = [\r\n1,\r\n2]\r\nc = 1\r\n") == {
        ("a",): 1,
        ("a", "b"): 2,
        ("a", "b", 0): 3,
        ("a", "b", 1): 4,
        ("a", "c"): 5,
    }


KEY = st.sampled_from(["a", "b-1", "_", '"q k"', "'l.k'", '"\\u00e9"', "a.b", "c . d", '""'])
VALUE = st.sampled_from(
    [
        "1",
        "1.5",
        "true",
        "[]",
        "[\n1,\n2,\n]",
        '["a", # c\n"]"]',
        '"x # y"',
        "'[k]'",
        '"""\na = 1\n""""',
        "'''\n[x]\n'''''",
        "{a = 1, b = {c = []}}",
        "1979-05-27T07:32:00Z",
        '"\\\\"',
        '"""\\""""',
    ]
)
STATEMENT = st.one_of(
    st.builds("{} = {}".format, KEY, VALUE),
    st.builds("[{}]".format, KEY),
    st.builds("[[{}]] # x".format, KEY),
    st.sampled_from(["", "# [c]", "  "]),
)


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> set[tuple[Any, ...]]:
    """Return the paths of all keys that are not inside a list or an inline table."""
    found = set()
    for key, value in tree.items():
        found.add((*path, key))
        if isinstance(value, dict):
            found |= leaves(value, (*path, key))
    return found


@given(st.lists(STATEMENT, max_size=12), st.sampled_from(["\n", "\r\n"]))
def test_every_key_is_found_on_a_line_that_has_it(statements: list[str], end: str) -> None:
    text = end.join(statements)
    try:
        tree = tomllib.loads(text)
    except ValueError:
        return
    found = dict(key_lines(text))
    written = text.split("\n")
    for path, line in found.items():
        assert 1 <= line <= len(written)
        node: Any = tree
        for part in path:
            node = node[part]  # the path exists in what tomllib read
    for path in leaves(tree):
        # Keys inside inline tables have no line of their own, their parents have.
        assert any(path[:length] in found for length in range(1, len(path) + 1))


@given(st.text(alphabet="[]{}=.,#'\"\\\n\r ab1é-", max_size=60))
def test_any_text_is_a_document_or_a_mistake(text: str) -> None:
    try:
        parse_document(text, "f", Path("/"))
    except ConfigurationError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = \n", "f:1:5: not TOML: invalid value"),
        ("a = 1\nb = [1,", "f:2:8: not TOML: invalid value"),
        ('a = "x', "f:1:7: not TOML: unterminated string"),
        ("a = 1\n[b\n", "f:2:3: not TOML: expected ']' at the end of a table declaration"),
        ("a = 1\na = 2\n", "f:2:6: not TOML: cannot overwrite a value"),
        ("a = 'x\ny'", "f:1:7: not TOML: found invalid character '\\n'"),
        ("a = 1\x00", "f:1:6: not TOML: expected newline or end of document after a statement"),
        ("a = " + "[" * 5000, "f: brackets are nested too deeply"),
        ("a = " + "9" * 5000, "f: not TOML: a number is too long"),
        ("just words", "f:1:6: not TOML: expected '=' after a key in a key/value pair"),
    ],
)
def test_what_is_no_toml_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_document(text, "f", Path("/"))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xef\xbb\xbf[a]", ":1: begins with a byte order mark (save it as UTF-8 without BOM)"),
        (b"\xff\xfe[\0a\0", ":1: is UTF-16 (save it as UTF-8)"),
        (b"a = 1\n# \xe9t\xe9\n", ":2: is not UTF-8 (save it as UTF-8)"),
        (b"#" * 1024 * 1024 + b"#", ": longer than 1048576 bytes, the most that is read"),
    ],
)
def test_what_is_no_text_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        read_document(path)
    assert str(caught.value) == f"{path}{message}"


def test_a_replacement_character_in_valid_utf8_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_text("a = '\ufffd'", encoding="utf-8")
    assert read_document(path).tables == {"a": "\ufffd"}


def test_dotted_names_obey_no_escape_sequences() -> None:
    assert dotted(("server", "listen", 1)) == "server.listen[1]"
    assert dotted(("a b", "\x1b[2J", "é")) == '"a b"."\\x1b[2J"."\\xe9"'
