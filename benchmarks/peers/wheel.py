"""This checkout as a wheel has it: with its data path compiled to C."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from benchmarks.programs import CACHE, ROOT, Unavailable, answer_of

#: Seconds that building may take: half a minute here, and what is downloaded for it.
BUILD_TIMEOUT = 900.0
#: What decides what is built.
SOURCES = ("phantom/**/*.py", "twisted/plugins/*.py", "backend/*.py", "setup.*", "pyproject.toml")

#: What asks an interpreter for that which tells it from others that need another build.
KIND = "import sys, sysconfig; print(sys.prefix, sysconfig.get_config_var('EXT_SUFFIX'))"


def compiled_tree(python: str = sys.executable) -> Path:
    """Return a folder with the checkout's packages, compiled for an interpreter.

    It is kept, under a name made from the sources.

    Args:
        python: The interpreter.  It needs no pip of its own, but its headers.

    Raises:
        Unavailable: It cannot be built; the message has the end of what was said.
    """
    digest = hashlib.sha256(answer_of(python, KIND).encode())
    for path in sorted(path for pattern in SOURCES for path in ROOT.glob(pattern)):
        digest.update(path.read_bytes())
    folder = CACHE / "build" / f"phantom-{digest.hexdigest()[:12]}"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        fresh = Path(place, "packages")
        with zipfile.ZipFile(_build(Path(place), python)) as wheel:
            wheel.extractall(fresh)
        fresh.rename(folder)
    return folder


def _build(place: Path, python: str) -> Path:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    pip += ["wheel", "--no-deps"]
    try:
        done = subprocess.run(
            [*pip, "--wheel-dir", str(place), str(ROOT)],
            env={**os.environ, "PHANTOM_COMPILE": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"phantom was not compiled within {BUILD_TIMEOUT:g} s") from None
    if done.returncode:
        words = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
        telling = [line for line in words if "rror" in line] or words
        raise Unavailable(f"phantom cannot be compiled: {' | '.join(telling[:3])}")
    [wheel] = place.glob("*.whl")
    return wheel
