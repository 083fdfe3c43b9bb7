"""Every symbol of ours that the documentation names exists.

A symbol is a code span that is a dotted path from ``phantom``, such as
`phantom.tunnel.stream.Stream.write`; a pair of parentheses at its end is ignored.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SPAN = re.compile(r"`(phantom(?:\.[A-Za-z_][A-Za-z0-9_]*)+)(?:\(\))?`")
#: Names that look like paths and are files.
FILE_ENDINGS = (".py", ".md", ".toml", ".service")


def named() -> dict[str, str]:
    """Return every symbol named, and one page that names it."""
    found: dict[str, str] = {}
    for page in sorted(ROOT.glob("doc/**/*.md")):
        for symbol in SPAN.findall(page.read_text()):
            if not symbol.endswith(FILE_ENDINGS):
                found.setdefault(symbol, str(page.relative_to(ROOT)))
    return found


def exists(symbol: str) -> bool:
    """Return whether `symbol` is a module, or something in one, attributes included."""
    parts = symbol.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        rest = parts[split:]
        break
    else:
        return False
    for position, part in enumerate(rest):
        if hasattr(found, part):
            found = getattr(found, part)
        else:
            return position == len(rest) - 1 and is_instance_attribute(found, part)
    return True


def is_instance_attribute(kind: object, name: str) -> bool:
    """Return whether a class sets ``self.name`` in one of its methods."""
    if not inspect.isclass(kind):
        return False
    ours = [base for base in kind.__mro__ if base.__module__.startswith("phantom.")]
    setting = re.compile(rf"\bself\.{name}\b[^=\n]*=[^=]")
    return any(
        name in getattr(base, "__annotations__", ()) or setting.search(source(base))
        for base in ours
    )


def source(kind: type) -> str:
    """Return the source of a class; of a compiled one none is known, and none is needed."""
    try:
        return inspect.getsource(kind)
    except OSError:
        return ""  # what its methods set is in the class itself


SYMBOLS = named()


@pytest.mark.parametrize("symbol", sorted(SYMBOLS))
def test_symbol_exists(symbol: str) -> None:
    assert exists(symbol), f"{SYMBOLS[symbol]} names {symbol}"


def test_the_walk_names_every_step() -> None:
    walk = SPAN.findall((ROOT / "doc" / "life-of-a-byte.md").read_text())
    modules = {".".join(symbol.split(".")[:3]) for symbol in walk}
    assert modules >= {
        "phantom.inbound.socks5",
        "phantom.outbound.tunnel",
        "phantom.tunnel.stream",
        "phantom.tunnel.mux",
        "phantom.tunnel.session",
        "phantom.tunnel.frame",
        "phantom.tunnel.noise",
        "phantom.carriers.tls",
        "phantom.inbound.tunnel",
        "phantom.outbound.direct",
    }


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        ("phantom.relay.relay_pair", True),
        ("phantom.tunnel.session.Session.link", True),
        ("phantom.tunnel.stream.Stream.credit", True),
        ("phantom.relay.no_such", False),
        ("phantom.tunnel.session.Session.no_such", False),
        ("phantom.no_such.thing", False),
    ],
)
def test_the_check_can_fail(symbol: str, expected: bool) -> None:
    assert exists(symbol) is expected
