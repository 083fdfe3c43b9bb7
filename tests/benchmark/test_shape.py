"""The tables of what padding hides: `benchmarks.shape`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import shape
from phantom.audit.flows import Flow, Segment

ROOT = Path(__file__).parents[2]


def flow(*sizes: int) -> Flow:
    """Return a connection: packets of so many bytes, the client's above 0."""
    return Flow(
        segments=[Segment(place / 10, s > 0, bytes(abs(s))) for place, s in enumerate(sizes)]
    )


def test_a_visit_is_told_by_sizes_and_directions() -> None:
    told = shape.seen(flow(600, -3000, 80))

    assert (told["up"], told["down"], told["packets"]) == (680, 3000, 5)
    assert told["bursts"] == [(600, 1), (-3000, 3), (80, 1)]
    assert [size for size, _ in told["sizes"]] == [600, -1448, -1448, -104, 80]


def test_the_classifier_is_shown_as_many_figures_of_every_visit() -> None:
    short, long = shape.seen(flow(1, -1)), shape.seen(flow(*[600, -3000] * 500))

    assert len(shape.features(short)) == len(shape.features(long))
    assert shape.features(short) != shape.features(long)


def test_pages_are_loaded_and_reported(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "benchmarks.shape"]
    once = ["pages", "--carrier", "tcp", "--pages", "1", "--out", str(out)]
    done = subprocess.run([*command, *once], cwd=ROOT, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    row = json.loads(out.read_text())
    assert row["pages"] == 1
    assert row["flows"][0]["down"] > 20_000

    done = subprocess.run([*command, "report", out], cwd=ROOT, timeout=60, capture_output=True)
    assert b"| tcp | default | off | own | 1 |" in done.stdout


def test_a_file_without_the_browsers_own_visits_cannot_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("")

    assert shape.main(["classify", str(rows)]) == 2
    assert "no row of the carrier `none`" in capsys.readouterr().err


def test_what_the_classifier_needs_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    rows = tmp_path / "rows.jsonl"
    row = {"carrier": "none", "padding": "", "timing": "", "by": "browser"}
    rows.write_text(json.dumps({**row, "flows": [shape.seen(flow(1, -1))]}))

    assert shape.main(["classify", str(rows)]) == 2
    assert "pip install scikit-learn" in capsys.readouterr().err


def test_bad_rows_end_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("nonsense\n")

    assert shape.main(["report", str(rows)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert shape.main(["report", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err


def test_a_visit_without_a_tunnel_needs_a_browser(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shape.main(["pages", "--carrier", "none", "--out", str(tmp_path / "rows")]) == 2
    assert "--browser" in capsys.readouterr().err
