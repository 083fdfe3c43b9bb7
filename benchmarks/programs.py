"""Where things are kept, and the two C programs, compiled when first used."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

#: The folder of this package, and the project it measures.
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

#: Compiled programs, installed peers and throwaway keys.
CACHE = Path(os.environ.get("BENCH_CACHE") or Path.home() / ".cache" / "bench-peers").absolute()


class Unavailable(Exception):  # noqa: N818
    """Something cannot be used here; the message says why, and what would help."""


def compiled(name: str) -> Path:
    """Return the program made from the C files in the folder `name`, compiling it if it must be.

    The file's name holds a hash of its sources, so that checkouts share a cache without
    running each other's program.

    Raises:
        Unavailable: There is no C compiler.
        subprocess.CalledProcessError: It does not compile.
    """
    sources = sorted((HERE / name).glob("*.[ch]"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    program = CACHE / "build" / f"{name}-{digest}"
    if program.exists():
        return program
    compiler = shutil.which("cc")
    if compiler is None:
        raise Unavailable("no C compiler: install gcc and libc6-dev")
    program.parent.mkdir(parents=True, exist_ok=True)
    fresh = program.with_suffix(f".{os.getpid()}")
    files = [str(path) for path in sources if path.suffix == ".c"]
    flags = ["-O2", "-Wall", "-Wextra", "-pthread"]
    subprocess.run([compiler, *flags, "-o", str(fresh), *files, "-lm"], check=True)
    fresh.replace(program)
    return program


def answer_of(python: str, question: str) -> str:
    """Return what a program of a line prints with an interpreter, "" if it does not run."""
    try:
        done = subprocess.run([python, "-c", question], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
