"""Builds phantom: setuptools, and mypyc where there is a C compiler (decision 28).

A wheel is compiled unless something that compiling needs is missing; then it is plain Python, which
does the same and takes longer.  ``PHANTOM_COMPILE`` in the environment decides otherwise: with 0
nothing is compiled, with 1 it has to work.  An editable installation is never compiled: what is
edited would have no effect.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from setuptools import build_meta

CHOICE = "PHANTOM_COMPILE"
#: Bytes of memory: what compiling takes, 330 MB, and half as much besides.  Where there is less,
#: the kernel might end pip, or something else on the machine.
MEMORY = 500 * 1000 * 1000

#: What compiling needs: mypyc, which is part of mypy, and what it must know of to tell types.
COMPILING = ["attrs >=24.2", "mypy >=2.4,<2.5", "mypy-zope >=1.0.17", "twisted >=25.5"]


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _plain(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a hook of setuptools (PEP 517, PEP 660) that does not compile, whatever was chosen."""

    @wraps(hook)
    def plain(*arguments: Any, **options: Any) -> Any:
        with _environment({CHOICE: "0"}):
            return hook(*arguments, **options)

    return plain


build_editable = _plain(build_meta.build_editable)
build_sdist = _plain(build_meta.build_sdist)
get_requires_for_build_editable = _plain(build_meta.get_requires_for_build_editable)
get_requires_for_build_sdist = _plain(build_meta.get_requires_for_build_sdist)
prepare_metadata_for_build_editable = _plain(build_meta.prepare_metadata_for_build_editable)
prepare_metadata_for_build_wheel = _plain(build_meta.prepare_metadata_for_build_wheel)
_requires = _plain(build_meta.get_requires_for_build_wheel)


def obstacle() -> str | None:
    """Return why nothing can be compiled here; None if nothing is known against it."""
    if sys.implementation.name != "cpython":
        return f"mypyc is for CPython, and this is {sys.implementation.name}"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "it was not tried with the free-threaded CPython"
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    if not compiler or shutil.which(compiler[0]) is None:
        return f"there is no C compiler ({shlex.join(compiler)})"
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        return f"Python's headers are not installed ({header}; Debian: python3-dev)"
    if (free := free_memory()) is not None and free < MEMORY:
        return f"of {MEMORY // 10**6} MB of memory only {free // 10**6} are free"
    return None


def free_memory() -> int | None:
    """Return how many bytes of memory and swap can be had, None where Linux does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {name: int(rest.split()[0]) for name, _, rest in (i.partition(":") for i in lines)}
        return 1024 * (sizes["MemAvailable"] + sizes["SwapFree"])
    except (OSError, ValueError, LookupError):
        return None


def refusal() -> str | None:
    """Return why nothing is compiled, by choice or for want of something; None if it is tried."""
    choice = os.environ.get(CHOICE)
    if choice == "0":
        return "as was asked for"
    return None if choice == "1" else obstacle()


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """Return what must be installed to build a wheel (PEP 517)."""
    return [*_requires(config_settings), *(COMPILING if refusal() is None else [])]


def build_wheel(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel, compiled if that works; return its name (PEP 517).

    Raises:
        Exception: Nothing can be built, or not compiled although it must be.
    """
    arguments = (wheel_directory, config_settings, metadata_directory)
    reason = refusal()
    if reason is None:
        try:
            return _build(arguments, compiled=True)
        except (Exception, SystemExit) as error:  # setuptools and mypyc end the program
            if os.environ.get(CHOICE) == "1":
                raise
            reason = f"it failed: {error!r}"
    print(f"phantom is not compiled ({reason}); it is slower, and does the same", file=sys.stderr)
    return _build(arguments, compiled=False)


def _build(arguments: tuple[str, Any, str | None], *, compiled: bool) -> str:
    # In a folder of its own, whatever a build before has left: setuptools packs all it finds.
    with (
        tempfile.TemporaryDirectory(prefix="phantom-build-") as folder,
        _environment({CHOICE: str(int(compiled)), "PHANTOM_BUILD": folder}),
    ):
        name: str = build_meta.build_wheel(*arguments)
        return name
