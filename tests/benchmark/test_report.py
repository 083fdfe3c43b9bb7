"""Tables and captions are made from rows: medians, ranges, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report


def row(peer: str, run: int, cpu: float, **more: Any) -> dict[str, Any]:
    return {
        "peer": peer,
        "scenario": "down1",
        "kind": "bulk",
        "cc": "bbr",
        "run": run,
        "time": 86400 * run,
        "machine": "2 x Abacus",
        "kernel": "6.1",
        "python": "3.11.7",
        "commit": "0123456789",
        "cpu_s_per_gb": cpu,
        "gbps": 8.0,
        "rss_peak": 50 << 20,
        **more,
    }


ROWS = [
    row("a", 1, 1.0),
    row("b", 1, 4.0),
    row("a", 2, 9.0),
    row("b", 2, 2.0),
    row("a", 3, 2.0),
    row("b", 3, 3.0, error="Failed: it fell over"),
]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|\n ").split("|")]


def test_the_median_of_the_runs_that_worked_is_shown() -> None:
    [(title, [heading, a, b])] = report.tables(ROWS)
    assert title == "down1"
    cpu, span = heading.index("CPU-s/GB"), heading.index("min-max")
    assert (a[cpu], a[span], a[-1]) == ("2.000", "1-9", "3")
    assert (b[cpu], b[span], b[-1]) == ("3.000", "2-4", "2")
    assert a[heading.index("peak RSS MB")] == "50"
    assert a[heading.index("client")] == "-"


def test_ratios_are_to_the_base() -> None:
    [(_, [heading, a, b])] = report.tables(ROWS, "b")
    assert heading[-1] == "CPU-s/GB x b"
    assert (a[-1], b[-1]) == ("0.67", "1.00")


def test_where_peers_took_turns_each_turn_is_compared() -> None:
    # The machine gets slower and slower; b always takes twice what a does, but for one turn.
    rows = []
    for turn, speed in enumerate((1.0, 2.0, 4.0, 8.0, 16.0), 1):
        rows.append(row("a", 1, speed, turn=turn, together=1.5))
        cpu = speed * (2 if turn != 3 else 2.2)
        rows.append(row("b", 1, cpu, turn=turn, together=1.5, gbps=4.0))
    # On another day, without anything to compare it with.
    rows.append(row("b", 2, 1.0, turn=1, together=9.5))
    rows.append(row("c", 2, 1.0, turn=1, together=9.5))
    [(_, [heading, a, b, c])] = report.tables(rows, "a")
    assert c[-2:] == ["-", "-"]
    assert heading[-2:] == ["CPU-s/GB x a", "Gbit/s x a"]
    assert a[-2:] == ["1.00", "1.00"]
    assert b[-2:] == ["2.00 +- 0.05", "0.50 +- 0.00"]
    assert "medians of 5 turns in each of 2 runs" in report.caption(rows)


def test_what_failed_in_a_turn_is_not_compared() -> None:
    fallen = row("b", 1, 9.0, turn=1, together=1.5, error="Failed: it fell over")
    rows = [row("a", 1, 1.0, turn=1, together=1.5), fallen]
    [(_, [_, _, b])] = report.tables(rows, "a")
    assert b[-2:] == ["-", "-"]
    assert report.tables(rows, "nobody")[0][1][1][-1] == "-"


def test_what_went_wrong_is_told() -> None:
    rows = [*ROWS, row("c", 1, 0.0, skipped="not installed")]
    assert report.troubles(rows) == [
        "b (down1) failed: Failed: it fell over",
        "c (down1) skipped: not installed",
    ]
    assert report.summarize(rows)["down1"]["c"].median("cpu_s_per_gb") is None
    for text in (report.text(rows), report.markdown(rows)):
        assert "c (down1) skipped: not installed" in text


def test_congestion_controls_are_kept_apart() -> None:
    rows = [row("a", 1, 1.0), row("a", 1, 5.0, cc="cubic"), row("a", 1, 7.0, scenario="up1")]
    assert list(report.summarize(rows)) == ["down1 (bbr)", "down1 (cubic)", "up1"]


def test_the_caption_says_where_and_when() -> None:
    assert report.caption(ROWS) == (
        "2 x Abacus, Linux 6.1, Python 3.11.7, commit 0123456789, TCP bbr, "
        "1970-01-02 to 1970-01-04, medians of 3 interleaved runs"
    )


def test_markdown_is_a_table() -> None:
    lines = report.markdown(ROWS, level=4).splitlines()
    start = lines.index("#### down1") + 2
    heading, rule, a, b = lines[start : start + 4]
    assert {len(cells(line)) for line in (heading, rule, a, b)} == {len(cells(heading))}
    assert cells(a)[:2] == ["a", "2.000"]


def test_files_are_read_and_mistakes_named(tmp_path: Path) -> None:
    good = tmp_path / "good.jsonl"
    good.write_text("".join(json.dumps(each) + "\n" for each in ROWS) + "\n")
    assert report.read([good]) == ROWS
    bad = tmp_path / "bad.jsonl"
    for text in ("{}\n", "\nnonsense\n", "[1]"):
        bad.write_text(text)
        with pytest.raises(ValueError, match=r"bad\.jsonl:\d: not a row"):
            report.read([bad])


def test_a_row_on_one_line() -> None:
    line = report.brief(row("a", 1, 1.23456))
    assert line == "gbps=8 cpu_s_per_gb=1.235 rss_peak=50M"
