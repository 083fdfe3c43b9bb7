"""Every check of the harness can fail: each is shown a test that breaks its rule."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent


class Outcome:
    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.text = done.stdout + done.stderr
        self.code = done.returncode


class Project:
    """A project of its own, under this project's conftest and settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "setup.cfg").write_text((HERE.parent / "setup.cfg").read_text())
        (folder / "tests").mkdir()
        (folder / "tests" / "conftest.py").write_text((HERE / "conftest.py").read_text())

    def run(self, source: str, *arguments: str, ci: bool = True) -> Outcome:
        (self.folder / "tests" / "test_it.py").write_text(textwrap.dedent(source))
        environment = {k: v for k, v in os.environ.items() if k not in ("CI", "PYTEST_ADDOPTS")}
        environment["PYTHONPATH"] = str(HERE.parent)
        if ci:
            environment["CI"] = "true"
        return Outcome(
            subprocess.run(
                [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=50,
                check=False,
            )
        )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_clean_tests_pass(project: Project) -> None:
    outcome = project.run(
        """
        import pytest
        from hypothesis import given, strategies as st
        from twisted.internet.task import deferLater

        def test_plain():
            pass

        async def test_async(reactor):
            await deferLater(reactor, 0.01)

        @given(st.integers())
        def test_property(number):
            assert number == number

        @given(number=st.integers(0, 3))
        async def test_async_property(reactor, number):
            await deferLater(reactor, 0)

        @pytest.mark.parametrize("value", [1, 2])
        class TestGrouped:
            async def test_method(self, value):
                assert value

        async def test_settles(reactor):
            reactor.callLater(0.05, int)  # gone before the patience is

        async def test_expected_error(logged_failures):
            from twisted.internet.defer import fail
            fail(ValueError("expected"))
            [failure] = logged_failures.flush(ValueError)
            assert failure.getErrorMessage() == "expected"
        """
    )
    assert outcome.code == 0, outcome.text
    assert "8 passed" in outcome.text


def test_what_is_wrong_is_said(project: Project) -> None:
    """One run for all of them: starting pytest costs more than the tests."""
    outcome = project.run(
        """
        import gc
        import time
        import pytest
        from hypothesis import given, strategies as st
        from twisted.internet.defer import Deferred, fail
        from twisted.internet.protocol import Factory, DatagramProtocol, Protocol
        from twisted.logger import Logger

        @pytest.mark.timeout(0.2)
        async def test_hangs():
            await Deferred()

        @pytest.mark.timeout(0.2)
        async def test_hangs_in_spite_of_cancellation():
            try:
                await Deferred()
            except BaseException:
                await Deferred()

        @pytest.mark.timeout(0.2)
        @given(number=st.integers())
        async def test_hangs_in_a_property(number):
            await Deferred()

        @pytest.mark.timeout(0.1)
        def test_blocks():
            time.sleep(30)

        @pytest.mark.timeout(0.1)
        async def test_blocks_the_reactor():
            time.sleep(30)

        async def test_lost_error():
            fail(ValueError("nobody cared"))

        async def test_lost_error_in_a_cycle():
            lost = fail(ValueError("nobody cared in a cycle"))
            lost.me = lost

        def test_logged_failure():
            try:
                1 / 0
            except ZeroDivisionError:
                Logger().failure("it went wrong")

        def test_delayed_call(reactor):
            reactor.callLater(60, print)

        def test_port(reactor):
            reactor.listenTCP(0, Factory(), interface="127.0.0.1")

        def test_udp_port(reactor):
            reactor.listenUDP(0, DatagramProtocol(), interface="127.0.0.1")

        async def test_connection(reactor):
            from twisted.internet.endpoints import (
                TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol)
            serving = Factory.forProtocol(Protocol)
            port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(serving)
            there = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
            await connectProtocol(there, Protocol())
            await port.stopListening()

        def test_one_trouble_is_enough(reactor):
            reactor.callLater(60, print)
            assert False, "the test's own failure"

        def test_that_comes_after_is_clean():
            pass
        """
    )
    assert outcome.code == 1, outcome.text
    summary = outcome.text[outcome.text.index("short test summary") :]
    for failed in (
        "test_hangs",
        "test_hangs_in_spite_of_cancellation",
        "test_hangs_in_a_property",
        "test_blocks",
        "test_blocks_the_reactor",
        "test_one_trouble_is_enough",
    ):
        assert f"FAILED tests/test_it.py::{failed} " in summary
    for left in (
        "test_lost_error",
        "test_lost_error_in_a_cycle",
        "test_logged_failure",
        "test_delayed_call",
        "test_port",
        "test_udp_port",
        "test_connection",
    ):
        assert f"ERROR tests/test_it.py::{left} " in summary
    assert "ERROR tests/test_it.py::test_one_trouble_is_enough" not in summary
    assert "6 failed, 8 passed, 7 errors" in summary
    for said in (
        "not done after 0.2 s",
        "the reactor was blocked; not done after 0.1 s",
        "nobody cared in a cycle",
        "it went wrong",
        "delayed call left",
        "descriptor left open",
    ):
        assert said in outcome.text


def test_collecting_imports_no_reactor(project: Project) -> None:
    """--reactor chooses the reactor, so nothing may have installed one before."""
    outcome = project.run(
        """
        def test_reactor(reactor):
            assert type(reactor).__name__ == "AsyncioSelectorReactor"
        """,
        "--reactor=asyncio",
    )
    assert outcome.code == 0, outcome.text


def test_unknown_markers_are_errors(project: Project) -> None:
    outcome = project.run(
        """
        import pytest

        @pytest.mark.slwo
        def test_typo():
            pass
        """
    )
    assert outcome.code != 0
    assert "slwo" in outcome.text


@pytest.mark.parametrize("ci", [True, False])
def test_properties_repeat_in_ci(project: Project, ci: bool) -> None:
    outcome = project.run(
        """
        from hypothesis import settings

        def test_profile():
            print("derandomize", settings.default.derandomize)
            assert settings.default.deadline is None
        """,
        "-s",
        ci=ci,
    )
    assert f"derandomize {ci}" in outcome.text
