"""git and pip through the tunnel, by their own proxy settings."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from support.destinations import PIECE, WebServer
from support.programs import Tunnel, clean_environment, need, run

pytestmark = pytest.mark.e2e


def git(*arguments: str | Path, folder: Path | None = None) -> bytes:
    done = run(
        "git",
        *arguments,
        cwd=folder,
        env=clean_environment(
            GIT_CONFIG_GLOBAL=os.devnull,
            GIT_CONFIG_NOSYSTEM="1",
            GIT_TERMINAL_PROMPT="0",
            GIT_AUTHOR_NAME="a",
            GIT_AUTHOR_EMAIL="a@example.com",
            GIT_COMMITTER_NAME="a",
            GIT_COMMITTER_EMAIL="a@example.com",
        ),
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of thirty commits and a few megabytes that do not compress."""
    need("git")
    folder = tmp_path_factory.mktemp("git")
    work = folder / "work"
    git("init", "-q", work)
    for number in range(30):
        (work / f"file-{number}").write_bytes(PIECE[number : 200_000 + number * 3])
        git("add", ".", folder=work)
        git("commit", "-q", "-m", f"commit {number}", folder=work)
    git("clone", "-q", "--bare", work, folder / "public.git")
    return folder / "public.git"


@pytest.fixture(scope="module")
def git_web(repository: Path) -> Iterator[WebServer]:
    """A web server that runs ``git http-backend`` for the repository."""
    backend = Path(git("--exec-path").decode().strip()) / "git-http-backend"
    if not backend.exists():
        pytest.skip("not installed: git http-backend")

    class Backend(BaseHTTPRequestHandler):
        # HTTP/1.0, one connection a request, as CGI has it.
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if self.headers.get("Transfer-Encoding") == "chunked":
                raise AssertionError("not needed for a clone")
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            done = subprocess.run(
                [backend],
                input=body,
                capture_output=True,
                check=False,
                env=clean_environment(
                    GIT_PROJECT_ROOT=str(repository.parent),
                    GIT_HTTP_EXPORT_ALL="1",
                    PATH_INFO=path,
                    QUERY_STRING=query,
                    REQUEST_METHOD=self.command,
                    CONTENT_TYPE=self.headers.get("Content-Type", ""),
                    HTTP_CONTENT_ENCODING=self.headers.get("Content-Encoding", ""),
                    GIT_PROTOCOL=self.headers.get("Git-Protocol", ""),
                ),
            )
            assert isinstance(self.server, WebServer)
            self.server.count(path)
            self.wfile.write(b"HTTP/1.0 200 OK\r\n" + done.stdout)

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

    with WebServer(handler=Backend) as server:
        yield server


@pytest.mark.parametrize("scheme", ["socks5h", "http"])
def test_git_clone(
    tunnel: Tunnel, git_web: WebServer, repository: Path, tmp_path: Path, scheme: str
) -> None:
    proxy = tunnel.http if scheme == "http" else tunnel.socks5
    before = git_web.requests.total()
    git(
        "-c",
        f"http.proxy={scheme}://{proxy}",
        "clone",
        "-q",
        git_web.url("/public.git", "localhost"),
        tmp_path / "clone",
    )
    assert git_web.requests.total() > before
    assert git("rev-parse", "HEAD", folder=tmp_path / "clone") == git(
        "rev-parse", "HEAD", folder=repository
    )
    git("fsck", "--strict", folder=tmp_path / "clone")


def make_wheel(folder: Path) -> Path:
    """Write the least that pip takes for a wheel (PEP 427)."""
    files = {
        "tiny_demo.py": b"answer = 42\n",
        "tiny_demo-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-demo\n"
        b"Version: 1.0\n",
        "tiny_demo-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(data)}\n"
    record += "tiny_demo-1.0.dist-info/RECORD,,\n"
    path = folder / "tiny_demo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)
        wheel.writestr("tiny_demo-1.0.dist-info/RECORD", record)
    return path


def test_pip_download(tunnel: Tunnel, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    page = f'<!DOCTYPE html><a href="/files/{wheel.name}">{wheel.name}</a>'
    with WebServer() as index:
        index.pages["/simple/tiny-demo/"] = ("text/html", page.encode())
        index.pages[f"/files/{wheel.name}"] = ("application/zip", wheel.read_bytes())
        done = run(
            *(sys.executable, "-m", "pip", "download", "-q", "--isolated", "--no-cache-dir"),
            *("--disable-pip-version-check", "--no-deps", "--retries", "0"),
            *("--proxy", f"http://{tunnel.http}", "-d", tmp_path / "got"),
            *("--index-url", index.url("/simple/"), "tiny-demo"),
            env=clean_environment(PIP_CONFIG_FILE=os.devnull),
        )
        assert done.returncode == 0, done.stderr.decode()
        assert index.requests[f"/files/{wheel.name}"] == 1
    assert (tmp_path / "got" / wheel.name).read_bytes() == wheel.read_bytes()
