"""Measurements behind the documentation's figures.  Run from the repository's root."""

import sys
from pathlib import Path

# The censor, the programs and the transfers are those of the tests.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
