from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from phantom.core.replay import ReplayVerdict, table_size
from phantom.tunnel.replay_file import FILE_NAME, RETRY_INTERVAL, ReplayFile, boot_epoch

FRESH, REPLAY = ReplayVerdict.FRESH, ReplayVerdict.REPLAY
STALE, FULL = ReplayVerdict.STALE, ReplayVerdict.FULL

NOW = 1_700_000_000.0
ALICE = b"A" * 32
EPOCH = b"boot" * 4


def key(number):
    return number.to_bytes(32, "big")


@pytest.fixture
def opened(tmp_path):
    """Open filters on one directory, and close them all in the end."""
    made = []

    def make(now=NOW, directory=tmp_path, epoch=EPOCH, **options):
        made.append(ReplayFile(directory, os.urandom, now, epoch=epoch, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
        each.close()


def test_a_restart_forgets_nothing(opened, tmp_path):
    first = opened(NOW - 1000)
    assert first.persistent
    assert first.check(ALICE, key(1), NOW, NOW) is FRESH
    first.close()
    second = opened(NOW + 5)
    assert second.check(ALICE, key(1), NOW, NOW + 5) is REPLAY
    # The history is whole, so timestamps from before the restart are welcome.
    assert second.check(ALICE, key(2), NOW, NOW + 5) is FRESH
    path = tmp_path / FILE_NAME
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size == table_size()


def test_siblings_see_each_other(opened):
    one, two = opened(NOW - 1000, quota=3), opened(NOW - 500, quota=3)
    assert one.check(ALICE, key(1), NOW, NOW) is FRESH
    assert two.check(ALICE, key(1), NOW, NOW) is REPLAY
    assert two.check(ALICE, key(2), NOW, NOW) is FRESH
    assert one.check(ALICE, key(3), NOW, NOW) is FRESH
    assert one.check(ALICE, key(4), NOW, NOW) is FULL


def test_a_sibling_opened_later_knows_how_old_the_table_is(opened):
    opened(NOW)
    assert opened(NOW + 10).check(ALICE, key(1), NOW - 1, NOW + 10) is STALE


def test_processes_race_for_one_message(tmp_path):
    program = textwrap.dedent(
        f"""
        import os, sys
        from phantom.tunnel.replay_file import ReplayFile
        replay = ReplayFile({str(tmp_path)!r}, os.urandom, {NOW - 1000}, epoch={EPOCH!r})
        print("ready", flush=True)
        sys.stdin.readline()
        verdicts = [
            replay.check({ALICE!r}, n.to_bytes(32, "big"), {NOW}, {NOW}).name
            for n in range(300)
        ]
        print(*verdicts)
        """
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    verdicts = [worker.communicate()[0].split() for worker in workers]
    for each in zip(*verdicts, strict=True):
        assert sorted(each) == ["FRESH", "REPLAY", "REPLAY"]
    assert len(verdicts[0]) == 300


def test_a_killed_process_leaves_its_entries(tmp_path, opened):
    program = textwrap.dedent(
        f"""
        import os, signal
        from phantom.tunnel.replay_file import ReplayFile
        replay = ReplayFile({str(tmp_path)!r}, os.urandom, {NOW - 1000}, epoch={EPOCH!r})
        replay.check({ALICE!r}, {key(1)!r}, {NOW}, {NOW})
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    assert opened(NOW).check(ALICE, key(1), NOW, NOW) is REPLAY


@pytest.mark.parametrize("epoch", [b"next" * 4, None])
def test_after_another_boot_only_new_timestamps_count(opened, epoch):
    first = opened(NOW - 1000)
    assert first.check(ALICE, key(1), NOW + 50, NOW) is FRESH
    first.close()
    second = opened(NOW + 40, epoch=epoch)
    assert second.check(ALICE, key(2), NOW + 39, NOW + 41) is STALE
    assert second.check(ALICE, key(2), NOW + 41, NOW + 41) is FRESH
    assert second.check(ALICE, key(1), NOW + 50, NOW + 41) is REPLAY


@pytest.mark.parametrize(
    "content",
    [b"x", os.urandom(table_size()), bytes(table_size()), bytes(table_size() + 5000)],
    ids=["short", "noise", "zeros", "long"],
)
def test_a_damaged_file_is_made_anew(opened, tmp_path, content):
    (tmp_path / FILE_NAME).write_bytes(content)
    replay = opened(NOW)
    assert replay.persistent
    assert replay.check(ALICE, key(1), NOW - 1, NOW + 1) is STALE
    assert replay.check(ALICE, key(1), NOW, NOW + 1) is FRESH
    assert opened(NOW + 2).check(ALICE, key(1), NOW, NOW + 2) is REPLAY


def damage_header(path):
    with path.open("r+b") as file:
        file.write(b"damage")


def truncate(path):
    os.truncate(path, 100)


def truncate_to_nothing(path):
    os.truncate(path, 0)


def remove(path):
    path.unlink()


@pytest.mark.parametrize("harm", [damage_header, truncate, truncate_to_nothing, remove])
def test_harm_under_a_running_process(opened, tmp_path, harm):
    one, two = opened(NOW - 1000), opened(NOW - 1000)
    for replay in (one, two):
        assert replay.check(ALICE, os.urandom(32), NOW, NOW) is FRESH
    harm(tmp_path / FILE_NAME)
    # What was known is lost, so only what is newer counts, at the sibling's too.
    later = NOW + 10
    assert one.check(ALICE, key(1), NOW, later) is STALE
    assert one.check(ALICE, key(1), later, later) is FRESH
    assert two.check(ALICE, key(1), later, later) is REPLAY
    assert two.check(ALICE, key(2), NOW, later + 1) is STALE
    assert two.check(ALICE, key(2), later + 1, later + 1) is FRESH
    assert one.check(ALICE, key(2), later + 1, later + 1) is REPLAY
    assert one.persistent and two.persistent
    assert (tmp_path / FILE_NAME).stat().st_size == table_size()


def test_without_a_file_memory_serves_until_there_is_one(opened, tmp_path):
    directory = tmp_path / "missing"
    replay = opened(NOW, directory=directory)
    assert not replay.persistent
    assert replay.check(ALICE, key(1), NOW - 1, NOW) is STALE
    assert replay.check(ALICE, key(1), NOW + 30, NOW) is FRESH
    assert replay.check(ALICE, key(1), NOW + 30, NOW + 1) is REPLAY
    # Failing again later must not forget either.
    now = NOW + RETRY_INTERVAL
    assert replay.check(ALICE, key(1), NOW + 30, now) is REPLAY
    directory.mkdir()
    assert not replay.persistent
    assert replay.check(ALICE, key(1), NOW + 30, now + 1) is REPLAY
    now += RETRY_INTERVAL
    # The file starts empty, so what memory saw must be too old for it.
    assert replay.check(ALICE, key(1), NOW + 30, now) is STALE
    assert replay.persistent
    assert replay.check(ALICE, key(2), now, now) is FRESH


def test_memory_in_between_does_not_open_an_old_file_to_replays(opened, tmp_path):
    away = tmp_path / "away"
    first = opened(NOW - 1000)
    first.close()
    (tmp_path / FILE_NAME).rename(away)
    (tmp_path / FILE_NAME).mkdir()  # cannot be opened
    replay = opened(NOW)
    assert not replay.persistent
    assert replay.check(ALICE, key(1), NOW + 30, NOW) is FRESH
    (tmp_path / FILE_NAME).rmdir()
    away.rename(tmp_path / FILE_NAME)
    now = NOW + RETRY_INTERVAL
    assert replay.check(ALICE, key(1), NOW + 30, now) is STALE
    assert replay.persistent


def test_a_link_is_not_followed(opened, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / FILE_NAME).symlink_to(victim)
    assert not opened(NOW).persistent
    assert victim.read_bytes() == b"precious"


def test_boots_can_be_told_apart_here():
    epoch = boot_epoch()
    assert epoch == boot_epoch()
    assert epoch is None or len(epoch) == 16
