"""Which phantom this is, in the words of ``--version``."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec

from phantom import __version__

#: One of the modules that setup.py lists.
_COMPILED = "phantom.core.wire"


def is_compiled() -> bool:
    """Return whether the data path is compiled to C, as `setup.py` can have it."""
    spec = find_spec(_COMPILED)
    return spec is not None and str(spec.origin).endswith(tuple(EXTENSION_SUFFIXES))


def version_line() -> str:
    """Return name and version, and whether the data path is compiled."""
    return f"phantom {__version__}, {'compiled' if is_compiled() else 'not compiled'}"
