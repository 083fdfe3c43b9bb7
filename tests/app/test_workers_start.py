"""The parent of workers, where the machine does not let it start one, or nobody asks it to."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import attrs
import pytest
from support.runtime import fake_runtime
from twisted.internet.task import Clock

from phantom.app.workers import WorkersService
from phantom.config.document import parse_document
from phantom.config.keys import PrivateKey
from phantom.config.load import load_document
from phantom.config.schema import ServerFile

KEY = PrivateKey(bytes(range(1, 33)))


def make(clock: Clock, folder: Path) -> WorkersService:
    def read() -> ServerFile:
        text = (
            f'[server]\nlisten = "127.0.0.1:0"\nprivate_key = "{KEY.export()}"\n'
            f'workers = 2\nstate_dir = "state"\nallowed_clients = []\n'
        )
        return load_document(parse_document(text, "s", folder), ServerFile)

    runtime = attrs.evolve(fake_runtime(clock), reactor=clock)
    return WorkersService(runtime, read().server, read)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in a folder with something in it that has to stay."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "precious").write_text("x")
    monkeypatch.chdir(here)
    return here


def test_who_stops_before_the_start_keeps_the_folder_it_is_in(
    tmp_path: Path, elsewhere: Path
) -> None:
    service = make(Clock(), tmp_path)
    stopped: list[None] = []
    service.stopService().addCallback(stopped.append)
    assert stopped
    assert (elsewhere / "precious").exists()


def test_a_worker_that_cannot_be_started_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    tries: list[float] = []

    def no_fork() -> int:
        tries.append(clock.seconds())
        raise OSError(errno.EAGAIN, "too many processes")

    service = make(clock, tmp_path)
    monkeypatch.setattr(os, "fork", no_fork)
    descriptors = len(os.listdir("/proc/self/fd"))
    service._folder = tmp_path / "sockets"
    service._start(service._workers[0])
    clock.pump([10.0] * 20)
    assert len(tries) > 3
    assert len(os.listdir("/proc/self/fd")) <= descriptors
    stopped: list[None] = []
    service.stopService().addCallback(stopped.append)
    assert stopped, "there is nobody to wait for"
    count = len(tries)
    clock.pump([10.0] * 20)
    assert len(tries) == count
