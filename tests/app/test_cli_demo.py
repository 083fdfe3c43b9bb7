"""The demo as a process: wrong options, signals, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

PROGRAM = [
    *(sys.executable, "-c", "from phantom.app.cli.main import main; main()", "demo"),
    *("--megabytes", "1", "--socks5-port", "0", "--http-port", "0"),
]


@pytest.mark.parametrize(
    "options", [("--socks5-port", "70000"), ("--http-port", "-1"), ("--megabytes", "100000000")]
)
def test_an_impossible_option_is_named(options: tuple[str, str]) -> None:
    done = subprocess.run([*PROGRAM, *options], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert f"Invalid value for '{options[0]}'" in done.stderr


def test_a_port_in_use_is_one_line_that_says_what_to_do() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        command = [*PROGRAM, "--socks5-port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        f"phantom: 127.0.0.1:{port} is in use (choose other ports with --socks5-port and "
        "--http-port; 0 takes any)\n",
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_however_it_is_ended_no_key_stays_behind(number: signal.Signals, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        PROGRAM, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("  link"):
            assert process.poll() is None
        assert list(tmp_path.iterdir())
        process.send_signal(number)
        _, complaint = process.communicate(timeout=20)
    assert not list(tmp_path.iterdir())
    assert "Traceback" not in complaint


def test_a_check_that_could_not_be_told_has_failed() -> None:
    with open("/dev/full", "w") as full:
        command = [*PROGRAM, "--once"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=20)
    assert done.returncode == 1
