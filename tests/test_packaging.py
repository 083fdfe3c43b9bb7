"""However phantom is installed, `phantom` runs and twistd knows its two plugins."""

from __future__ import annotations

import configparser
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: What a build may leave in the tree, or what has nothing to do in a copy of it.
IGNORED = shutil.ignore_patterns(
    ".git", ".venv", ".tox", ".hypothesis", ".*_cache", "build", "dist", "*.egg-info",
    "__pycache__", "dropin.cache",
)  # fmt: skip

WHERE = """
import phantom, twisted.plugins.phantom_plugins as plugins
print(phantom.__file__)
print(plugins.__file__)
"""

TWISTD = "from twisted.scripts.twistd import run; run()"


def run(*command: object, cwd: Path) -> str:
    """Run a program without this test run's import path; return what it prints."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment["PHANTOM_COMPILE"] = "0"  # test_backend.py has what is compiled
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, source: Path, target: Path) -> Path:
    """Build a "wheel" or "sdist" of `source` as a build front end does."""
    target.mkdir()
    backend = "import sys; sys.path.insert(0, 'backend'); import phantom_backend as b"
    program = f"{backend}; b.build_{kind}({str(target)!r})"
    run(sys.executable, "-c", program, cwd=source)
    [built] = target.iterdir()
    return built


class Environment:
    """A fresh virtual environment that borrows this one's dependencies.

    A line in a .pth file puts this environment's site-packages at the end of the path but
    does not read the .pth files there: an editable phantom here stays unseen.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder, with_pip=False, symlinks=True)
        variables = {"base": str(folder), "platbase": str(folder)}
        self.packages = Path(sysconfig.get_path("purelib", "venv", vars=variables))
        lent = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
        (self.packages / "zz-lent.pth").write_text("\n".join(lent) + "\n")

    def install(self, *arguments: object) -> None:
        pip = [sys.executable, "-m", "pip", "--python", self.folder / "bin" / "python"]
        quiet = ["--disable-pip-version-check", "--no-index", "--no-deps"]
        isolation = ["--no-build-isolation", "--ignore-installed"]
        run(*pip, "install", *quiet, *isolation, *arguments, cwd=self.folder)

    def python(self, *arguments: object) -> str:
        return run(self.folder / "bin" / "python", *arguments, cwd=self.folder)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "environment")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return shutil.copytree(ROOT, tmp_path / "source", ignore=IGNORED)


def check_installed(environment: Environment, home: Path) -> None:
    """Check that what is under `home` is what Python, twistd and the shell find."""
    for place in environment.python("-c", WHERE).split():
        assert Path(place).is_relative_to(home)
    listed = environment.python("-c", TWISTD, "--help")
    assert "phantom-server" in listed
    assert "phantom-client" in listed
    usage = run(environment.folder / "bin" / "phantom", "--help", cwd=environment.folder)
    assert "Usage: phantom" in usage


def check_unit(environment: Environment) -> None:
    """Check that the systemd unit is where the documentation and `phantom init` say."""
    installed = environment.folder / "share" / "phantom" / "phantom-server.service"
    assert installed.read_text() == (ROOT / "contrib" / "phantom-server.service").read_text()
    config = environment.folder / "server.toml"
    phantom = environment.folder / "bin" / "phantom"
    said = run(phantom, "init", "server", "--output", config, cwd=environment.folder)
    assert said.splitlines()[-1] == f"or let systemd start it; a unit to adapt is {installed}"


@pytest.mark.slow
def test_an_installed_wheel_works(environment: Environment, source: Path, tmp_path: Path) -> None:
    wheel = build("wheel", source, tmp_path / "dist")
    environment.install(wheel)
    check_installed(environment, environment.packages)
    check_unit(environment)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "phantom/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "doc/", "benchmarks/"))]
    # Either would hide Twisted's own package behind ours.
    assert "twisted/__init__.py" not in names
    assert "twisted/plugins/__init__.py" not in names


@pytest.mark.slow
def test_an_installed_sdist_works(environment: Environment, source: Path, tmp_path: Path) -> None:
    sdist = build("sdist", source, tmp_path / "dist")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "tox.ini", "ruff.toml", ".importlinter", ".ci/run"} <= names
    assert {"tests/conftest.py", "tests/support/pipes.py", "doc/index.md"} <= names
    assert not [name for name in names if "__pycache__" in name or name.endswith("dropin.cache")]
    environment.install(sdist)
    check_installed(environment, environment.packages)
    check_unit(environment)


@pytest.mark.slow
def test_an_editable_install_works(environment: Environment, source: Path) -> None:
    environment.install("--editable", source)
    check_installed(environment, source)


def settings() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg")
    return parser


def packages() -> Iterator[str]:
    for init in (ROOT / "phantom").rglob("__init__.py"):
        yield ".".join(init.parent.relative_to(ROOT).parts)


def test_every_package_is_listed() -> None:
    listed = settings()["options"]["packages"].split()
    assert sorted(listed) == sorted([*packages(), "twisted.plugins"])


def test_every_data_file_is_listed() -> None:
    patterns = settings()["options.package_data"]["phantom"].split()
    data = [
        path.relative_to(ROOT / "phantom")
        for path in (ROOT / "phantom").rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    ]
    assert [path for path in data if not any(path.match(pattern) for pattern in patterns)] == []


def test_twisted_stays_twisted() -> None:
    assert not (ROOT / "twisted" / "__init__.py").exists()
    assert not (ROOT / "twisted" / "plugins" / "__init__.py").exists()


def test_listing_plugins_stays_light() -> None:
    """`twistd --help` imports the plugin file whatever it is asked for."""
    spec = importlib.util.find_spec("twisted.plugins.phantom_plugins")
    assert spec is not None
    program = (
        "import sys, twisted.application.service; before = set(sys.modules)\n"
        f"exec(compile(open({spec.origin!r}).read(), 'plugin', 'exec'), {{}})\n"
        "print(sorted(set(sys.modules) - before))"
    )
    assert run(sys.executable, "-c", program, cwd=ROOT) == "[]\n"
