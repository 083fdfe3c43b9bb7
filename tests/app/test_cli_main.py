"""The program as a process: help at once, failures in a line, pipes and interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner
from support.compiled import COMPILED

from phantom import __version__
from phantom.app.cli.main import COMMANDS, main

PROGRAM = [sys.executable, "-c", "from phantom.app.cli.main import main; main()"]


def run(*args: str, **more) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *args], capture_output=True, text=True, timeout=20, **more)


def test_help_names_every_command() -> None:
    for option in ("--help", "-h"):
        result = CliRunner().invoke(main, [option])
        assert result.exit_code == 0
        for name, entry in COMMANDS.items():
            assert name in result.stdout
            assert entry.summary in result.stdout


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "demo"])
def test_each_command_has_help(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert f"Usage: phantom {name}" in result.stdout


def test_version() -> None:
    built = "compiled" if COMPILED else "not compiled"
    result = CliRunner().invoke(main, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"phantom {__version__}, {built}\n")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from phantom.app.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('twisted', 'cryptography', 'attrs', 'txaio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["frob"],
            "Usage: phantom [OPTIONS] COMMAND [ARGS]...\nphantom: No such command 'frob'.\n",
        ),
        (
            ["check"],
            "Usage: phantom check [OPTIONS] FILE\nphantom: Missing argument 'FILE'.\n",
        ),
    ],
)
def test_wrong_usage_is_told_and_exits_with_2(args: list[str], message: str) -> None:
    result = CliRunner().invoke(main, args)
    assert (result.exit_code, result.stderr, result.stdout) == (2, message, "")


def test_a_command_without_arguments_shows_help() -> None:
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: phantom [OPTIONS] COMMAND [ARGS]...\n")
    assert "Commands:" in result.stderr
    assert "phantom:" not in result.stderr, "help is no complaint"


def test_a_closed_pipe_is_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*PROGRAM, "genkey"], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=20
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*PROGRAM, "genkey"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=20
        )
    assert (done.returncode, done.stderr) == (1, "phantom: No space left on device\n")


def test_closed_standard_streams_are_no_traceback() -> None:
    command = subprocess.list2cmdline(PROGRAM[:2])
    script = f'{command} "$1" pubkey <&- >&-'
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", PROGRAM[2]], capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stderr) == (
        1,
        "phantom: standard input: the private key is empty\n",
    )


def test_a_key_that_cannot_be_printed_is_no_traceback() -> None:
    command = subprocess.list2cmdline(PROGRAM[:2])
    script = f'{command} "$1" genkey >&-'
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", PROGRAM[2]], capture_output=True, text=True, timeout=20
    )
    assert "Traceback" not in done.stderr


def test_ctrl_c_is_quiet() -> None:
    code = """
import sys, time
from phantom.app.cli.main import main

class Keyboard:
    buffer = property(lambda self: self)

    def read(self, size):
        print("ready", flush=True)
        time.sleep(15)

sys.stdin = Keyboard()
main(["pubkey"])
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=10)
    assert (process.returncode, complaint.strip()) == (130, "")
