"""What is compiled where, and what happens where it cannot be (backend/phantom_backend.py)."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from test_packaging import IGNORED

ROOT = Path(__file__).resolve().parent.parent
HAS_MYPYC = importlib.util.find_spec("mypyc") is not None


@pytest.fixture
def backend() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "phantom_backend", ROOT / "backend" / "phantom_backend.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compiled_files() -> list[str]:
    """Return what setup.py lists."""
    for statement in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "COMPILED":
            names: list[str] = ast.literal_eval(statement.value)
            return names
    raise AssertionError("setup.py lists nothing")


def compiled_classes() -> set[str]:
    """Return the names of the classes in the files that setup.py lists."""
    trees = [ast.parse((ROOT / path).read_text()) for path in compiled_files()]
    found = (statement for tree in trees for statement in ast.walk(tree))
    return {statement.name for statement in found if isinstance(statement, ast.ClassDef)}


#: What else a compiled class may be derived from.
BASES = {"Generic", "IntEnum", "Protocol"}


@pytest.mark.parametrize("path", compiled_files())
def test_what_is_compiled_can_be(path: str) -> None:
    """A decorated class, or one with two bases, would be compiled to something slower."""
    text = (ROOT / path).read_text()
    assert "twisted.internet.protocol import" not in text, f"{path}: whose Protocol is it?"
    for statement in ast.walk(ast.parse(text)):
        if isinstance(statement, ast.ClassDef) and statement.decorator_list:
            [decorator] = map(ast.unparse, statement.decorator_list)
            assert decorator.startswith("attrs."), f"{path}: {statement.name} has @{decorator}"
            assert "validator" not in ast.unparse(statement), f"{path}: mypyc drops validators"
        elif isinstance(statement, ast.ClassDef):
            assert len(statement.bases) <= 1, f"{path}: {statement.name} has two bases"
            for base in map(ast.unparse, statement.bases):
                assert base.partition("[")[0] in BASES | compiled_classes(), (
                    f"{path}: {statement.name} is derived from {base}, which is not compiled"
                )


def test_what_compiling_needs_is_what_the_types_are_checked_with(backend: ModuleType) -> None:
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "setup.cfg")
    known = settings["options"]["install_requires"] + settings["options.extras_require"]["dev"]
    assert set(backend.COMPILING) <= {line.strip() for line in known.splitlines()}


@pytest.mark.parametrize("choice", [None, "1"])
def test_a_compiler_is_used_where_there_is_one(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch, choice: str | None
) -> None:
    monkeypatch.setattr(backend, "_requires", lambda settings: ["wheel"])
    monkeypatch.setattr(backend, "obstacle", lambda: None)
    monkeypatch.delenv("PHANTOM_COMPILE", raising=False)
    if choice is not None:
        monkeypatch.setenv("PHANTOM_COMPILE", choice)
    assert backend.get_requires_for_build_wheel() == ["wheel", *backend.COMPILING]


@pytest.mark.parametrize(("choice", "found"), [("0", True), (None, False)])
def test_nothing_more_is_needed_where_nothing_is_compiled(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch, choice: str | None, found: bool
) -> None:
    monkeypatch.setattr(backend, "_requires", lambda settings: ["wheel"])
    monkeypatch.setattr(backend, "obstacle", lambda: None if found else "no compiler")
    monkeypatch.delenv("PHANTOM_COMPILE", raising=False)
    if choice is not None:
        monkeypatch.setenv("PHANTOM_COMPILE", choice)
    assert backend.get_requires_for_build_wheel() == ["wheel"]


def test_what_is_missing_is_named(backend: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/nowhere/cc -pthread")
    assert backend.obstacle() == "there is no C compiler (/nowhere/cc -pthread)"


def test_a_small_machine_compiles_nothing(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = backend.free_memory()
    assert found is None or found > 1 << 20
    monkeypatch.setattr(backend, "free_memory", lambda: None)
    if (why := backend.obstacle()) is not None:
        pytest.skip(why)
    monkeypatch.setattr(backend, "free_memory", lambda: 400_000_000)
    assert backend.obstacle() == "of 500 MB of memory only 400 are free"


def wheel(tmp_path: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Build a wheel from a copy of the source; return how that went, and what is in it."""
    source = shutil.copytree(ROOT, tmp_path / "source", ignore=IGNORED)
    target = tmp_path / "dist"
    target.mkdir()
    program = f"import phantom_backend as b; print(b.build_wheel({str(target)!r}))"
    path = f"{source / 'backend'}"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=source,
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    names = []
    for built in target.iterdir():
        with zipfile.ZipFile(built) as archive:
            names += archive.namelist()
    left = {file.name for file in source.iterdir()} - {file.name for file in ROOT.iterdir()}
    assert left <= {"phantom.egg-info"}, "nothing is left behind in the source"
    return done, names


def libraries(names: list[str]) -> list[str]:
    return [name for name in names if name.endswith((".so", ".pyd"))]


@pytest.mark.slow
@pytest.mark.timeout(330)
@pytest.mark.skipif(not HAS_MYPYC, reason="mypyc is not installed (the extra dev)")
def test_a_wheel_is_compiled(backend: ModuleType, tmp_path: Path) -> None:
    if (why := backend.obstacle()) is not None:
        pytest.skip(why)
    done, names = wheel(tmp_path, PHANTOM_COMPILE="1")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    built = libraries(names)
    assert len(built) == len(compiled_files()) + 1, "one for each module, and what they share"
    for path in compiled_files():
        assert path in names, "its source, for tracebacks and for other interpreters"
        assert [name for name in built if name.startswith(path.removesuffix("py"))]


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"CC": "false"}, {"CC": "/nowhere/cc"}, {"PHANTOM_COMPILE": "0"}])
def test_what_cannot_be_compiled_is_installed_as_it_is(how: dict[str, str], tmp_path: Path) -> None:
    done, names = wheel(tmp_path, **{"PHANTOM_COMPILE": "", **how})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("-py3-none-any.whl")
    [line] = [line for line in done.stderr.splitlines() if "not compiled" in line]
    assert line.endswith("it is slower, and does the same")
    assert "phantom/core/wire.py" in names and not libraries(names)


@pytest.mark.slow
def test_what_has_to_be_compiled_is_not_installed_as_it_is(tmp_path: Path) -> None:
    done, names = wheel(tmp_path, PHANTOM_COMPILE="1", CC="false")
    assert done.returncode != 0
    assert not names
