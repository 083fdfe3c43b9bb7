"""What the README shows of ``phantom demo --once`` is what it prints, numbers aside."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from support.programs import run

pytestmark = pytest.mark.e2e

README = Path(__file__).resolve().parents[2] / "README.md"
DEMO = "from phantom.app.cli.main import main; main()"


def shape(text: str) -> list[str]:
    """Return the lines with every number, and what follows from this machine, made alike."""
    text = re.sub(r"[0-9][0-9,.]*", "N", text)
    # With or without the browser's hello, and processors with and without AES instructions.
    text = re.sub(r"Chrome's hello|OpenSSL's hello \(install phantom\[utls\]\)", "a hello", text)
    text = re.sub(r"AES-N-GCM|ChaChaN-PolyN", "a cipher", text)
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def test_the_transcript_is_true() -> None:
    [shown] = re.findall(r"(?ms)^\$ phantom demo --once\n(.*?)^```$", README.read_text())
    done = run(
        *(sys.executable, "-c", DEMO),
        *("demo", "--once", "--socks5-port", "0", "--http-port", "0", "--megabytes", "8"),
    )
    assert done.returncode == 0, done.stderr
    assert shape(done.stdout.decode()) == shape(shown)
