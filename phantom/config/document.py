"""A TOML file as read: its tables, and the line each of its keys is on.

`tomllib` tells no lines.  `key_lines` finds them by walking the text once more; it may take
the text for granted, because `tomllib` has accepted it.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from phantom.config.key_files import read_regular_file
from phantom.errors import ConfigurationError

#: The most that is read of a configuration file: about 20,000 allowed clients.  More is a
#: wrong path.
MAX_FILE_SIZE = 1024 * 1024

#: A place in a document: keys, and indexes into lists.
KeyPath = tuple[str | int, ...]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")

# Strings and comments whole, because what is in them is neither key nor bracket; then
# brackets, separators, and runs of anything else.
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*'
    r"|[\[\]{}=,\n]|[ \t\r]+|[^\[\]{}=,\n \t\r\"'#]+|.",
    re.DOTALL,
)


@attrs.frozen(slots=True)
class Document:
    """A configuration file.

    Attributes:
        name: What messages call it: its path, as it was given.
        folder: Where its relative paths start; absolute.
        tables: What `tomllib` made of it.  Not in the repr: it holds secrets.
        lines: The line of each key and each list item, counted from 1.
        mode: Its permission bits; 0 where there are none.
    """

    name: str
    folder: Path
    tables: dict[str, Any] = attrs.field(repr=False)
    lines: dict[KeyPath, int] = attrs.field(repr=False)
    mode: int = 0

    def error(
        self, path: KeyPath, problem: str, fix: str | None = None, *, inside: bool = False
    ) -> ConfigurationError:
        """Return a mistake at `path`.

        Args:
            path: Where; the line is the nearest enclosing one that is known.
            problem: What is wrong.
            fix: What to do about it.
            inside: Name no key: the problem says all.
        """
        line = None
        for length in range(len(path), 0, -1):
            if line := self.lines.get(path[:length]):
                break
        key = None if inside else dotted(path) or None
        return ConfigurationError(problem, file=self.name, line=line, key=key, fix=fix)


def dotted(path: KeyPath) -> str:
    """Return a path as people write it: ``server.listen[1]``, odd keys in quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            # ascii(): a key may hold characters that a terminal would obey.
            shown = part if _BARE_KEY.fullmatch(part) else f'"{ascii(part)[1:-1]}"'
            text += f".{shown}" if text else shown
    return text


def read_document(path: str | os.PathLike[str]) -> Document:
    """Read a configuration file.

    Raises:
        ConfigurationError: It cannot be read, or is no TOML.
    """
    name = os.fspath(path)
    content, mode = read_regular_file(path, MAX_FILE_SIZE)
    folder = Path(os.path.abspath(name)).parent
    if content.startswith(b"\xef\xbb\xbf"):
        raise ConfigurationError(
            "begins with a byte order mark", file=name, line=1, fix="save it as UTF-8 without BOM"
        )
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigurationError("is UTF-16", file=name, line=1, fix="save it as UTF-8")
    text = content.decode("utf-8", "replace")
    if "\ufffd" in text and text.encode() != content:
        line = text[: text.index("\ufffd")].count("\n") + 1
        raise ConfigurationError("is not UTF-8", file=name, line=line, fix="save it as UTF-8")
    return parse_document(text, name, folder, mode)


def parse_document(text: str, name: str, folder: Path, mode: int = 0) -> Document:
    """Parse the text of a configuration file.

    Args:
        text: TOML 1.0.
        name: What messages call the file.
        folder: Where relative paths start; absolute.
        mode: The file's permission bits.

    Raises:
        ConfigurationError: The text is no TOML; with line and column.
    """
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        problem, line, column = "brackets are nested too deeply", None, None
    except ValueError as error:  # TOMLDecodeError, and int() on thousands of digits
        problem, line, column = _locate(str(error), text)
    else:
        lines: dict[KeyPath, int] = {}
        for path, line_of_key in key_lines(text):
            lines.setdefault(path, line_of_key)
        return Document(name, folder, tables, lines, mode)
    # Outside the except clause: the decoder's error can carry the text along.
    raise ConfigurationError(problem, file=name, line=line, column=column)


def _locate(message: str, text: str) -> tuple[str, int | None, int | None]:
    """Split a message of `tomllib` into a problem, a line and a column."""
    line = column = None
    match = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message, re.S)
    if match is None:
        problem = "a number is too long" if "digits" in message else message
    else:
        problem = match[1]
        if match[2]:
            line, column = int(match[2]), int(match[3])
        else:
            line = text.count("\n") + 1
            column = len(text) - (text.rfind("\n") + 1) + 1
    problem = ascii(problem)[1:-1].replace("\\\\", "\\").replace("\\'", "'")
    return f"not TOML: {problem[:1].lower()}{problem[1:]}", line, column


def key_lines(text: str) -> Iterator[tuple[KeyPath, int]]:
    """Yield every key of a valid TOML text, and every item of a list, with its line.

    A table that is named several times (``a.b = 1``, ``a.c = 2``) comes several times.
    """
    pieces = _significant_pieces(text)
    table: KeyPath = ()
    counts: dict[KeyPath, int] = {}
    for piece, line in pieces:
        if piece == "\n":
            continue
        if piece == "[":
            written, is_array = _header(pieces)
            table = ()
            for part in written[:-1]:
                table = (*table, part)
                if table in counts:  # below a list of tables: its last one is meant
                    table = (*table, counts[table])
            table = (*table, written[-1])
            if is_array:
                counts[table] = counts.get(table, -1) + 1
            if table in counts:
                table = (*table, counts[table])
            yield from _with_parents(table, 0, line)
        else:
            path = table + _key(piece, pieces)
            yield from _with_parents(path, len(table), line)
            yield from _value(path, pieces)


def _with_parents(path: KeyPath, known: int, line: int) -> Iterator[tuple[KeyPath, int]]:
    for length in range(known + 1, len(path) + 1):
        yield path[:length], line


def _significant_pieces(text: str) -> Iterator[tuple[str, int]]:
    line = 1
    for match in _TOKEN.finditer(text):
        piece = match[0]
        if piece[0] not in "# \t\r":
            yield piece, line
        line += piece.count("\n")


def _key(first: str, pieces: Iterator[tuple[str, int]]) -> KeyPath:
    """Read a key up to its equals sign."""
    written = [first]
    for piece, _line in pieces:
        if piece == "=":
            break
        written.append(piece)
    return _split_key("".join(written))


def _header(pieces: Iterator[tuple[str, int]]) -> tuple[KeyPath, bool]:
    """Read a table's header up to the end of its line; also tell whether it is ``[[...]]``."""
    written: list[str] = []
    for piece, _line in pieces:
        if piece == "\n":
            break
        written.append(piece)
    is_array = written[0] == "["
    edge = 1 if is_array else 0
    return _split_key("".join(written[edge : len(written) - 1 - edge])), is_array


def _split_key(written: str) -> KeyPath:
    """Split a dotted key; TOML itself knows best where the dots are."""
    path: list[str | int] = []
    inner: Any = tomllib.loads(f"{written} = 0")
    while isinstance(inner, dict):
        ((part, inner),) = inner.items()
        path.append(part)
    return tuple(path)


def _value(path: KeyPath, pieces: Iterator[tuple[str, int]]) -> Iterator[tuple[KeyPath, int]]:
    """Read a value up to the end of its line, and yield the items of an outermost list."""
    depth = 0
    index = -1
    in_list = False
    awaits_item = False
    for piece, line in pieces:
        if piece == "\n" and depth == 0:
            return
        if awaits_item and piece not in ("\n", "]"):
            awaits_item = False
            index += 1
            yield (*path, index), line
        if piece in "[{":
            in_list = in_list or (depth == 0 and piece == "[")
            awaits_item = in_list and depth == 0
            depth += 1
        elif piece in "]}":
            depth -= 1
        elif piece == "," and depth == 1:
            awaits_item = in_list
