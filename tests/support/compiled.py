"""What cannot be tried on compiled modules (setup.py): their methods and names stay as they are."""

from __future__ import annotations

import pytest

from phantom.version import is_compiled

COMPILED = is_compiled()

#: For tests that put something else in the place of a method or function of the data path.
replaces = pytest.mark.skipif(COMPILED, reason="what this replaces is compiled")
