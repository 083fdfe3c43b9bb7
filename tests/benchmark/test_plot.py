"""Pictures show what the rows say: well-formed, in order, to scale."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import plot, svg

SVG = "{http://www.w3.org/2000/svg}"


def row(peer: str, client: float, server: float, run: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "peer": peer,
        "scenario": "down1",
        "kind": "bulk",
        "cc": "bbr",
        "run": run,
        "time": 0,
        "machine": "2 x <Abacus> & Co",
        "cpu_client_per_gb": client,
        "cpu_server_per_gb": server,
        "cpu_s_per_gb": client + server,
        "gbps": 8.0,
        **more,
    }


def texts(picture: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(picture).iter(f"{SVG}text")]


def test_a_picture_for_what_there_is(tmp_path: Path) -> None:
    rows = [row("sb-ss2022", 2, 2), row("phantom-raw", 1, 0.5), row("direct", 0, 0)]
    written = plot.draw(rows, tmp_path)
    assert [path.name for path in written] == ["cpu.svg", "throughput.svg"]
    words = texts(written[0].read_text())
    assert words.index("phantom-raw") < words.index("sb-ss2022")  # less is better
    assert "1.50" in words
    assert "direct" not in words  # it has no processes
    assert any("<Abacus> & Co" in each for each in words)
    assert "direct" in texts(written[1].read_text())


def test_bars_are_to_scale_and_show_the_range() -> None:
    panel = svg.Panel(
        "t",
        "u",
        [svg.Bar("a", [1, 1], 1.5, 2.5, "ours"), svg.Bar("b", [1], 1, 1, "other")],
        ".1f",
    )
    root = ElementTree.fromstring(svg.figure("x", [panel], "c", ["client", "server"]))
    bars = [each for each in root.iter(f"{SVG}rect") if each.get("height") == str(svg.BAR)]
    widths = [float(each.get("width", 0)) for each in bars]
    assert widths == pytest.approx([widths[0]] * 3)
    assert float(bars[1].get("x", 0)) == pytest.approx(float(bars[0].get("x", 0)) + widths[0])
    whisker = root.find(f"{SVG}path")
    assert whisker is not None
    ends = re.findall(r"[ML]([\d.]+) ", whisker.get("d", ""))
    assert float(ends[1]) - float(ends[0]) == pytest.approx(widths[0], abs=0.2)


def test_what_is_far_beyond_the_others_is_cut_short() -> None:
    bars = [svg.Bar(name, [length], length, length, "other") for name, length in
            (("a", 1.0), ("b", 1.0), ("c", 1.2), ("d", 50.0))]  # fmt: skip
    assert svg.full_length(bars) == pytest.approx(3.6)
    assert svg.full_length(bars[:3]) == pytest.approx(1.2)
    assert "50.0" in texts(svg.figure("x", [svg.Panel("t", "u", bars, ".1f")], "c"))
    assert svg.full_length([]) == 1


def test_nothing_overlaps_the_edge() -> None:
    bars = [svg.Bar(f"peer {n}", [n + 1.0], n, n + 2.0, "other") for n in range(30)]
    panels = [svg.Panel("t", "u", bars, ".2f")] * 3
    root = ElementTree.fromstring(svg.figure("x", panels, "word " * 100))
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for each in root.iter(f"{SVG}text"):
        assert 0 < float(each.get("x", 0)) < width
        assert 0 < float(each.get("y", 0)) < height
    for each in root.iter(f"{SVG}rect"):
        assert float(each.get("x", 0)) + float(each.get("width", 0)) <= width


def test_colours_tell_ours_from_others() -> None:
    peers = ["phantom-raw", "phantom-tls@x", "phantom-tls+y", "direct", "sb-anytls", "unheard-of"]
    assert [plot.kind(peer) for peer in peers] == [
        "ours",
        "ours",
        "ours",
        "limit",
        "other",
        "other",
    ]


def test_long_names_are_not_cut() -> None:
    name = "phantom-tls-boringssl@compiled"
    panel = svg.Panel("t", "u", [svg.Bar(name, [1.0], 1, 1, "ours")], ".2f")
    root = ElementTree.fromstring(svg.figure("x", [panel], "c"))
    [label] = [each for each in root.iter(f"{SVG}text") if each.text == name]
    assert float(label.get("x", 0)) >= svg.MARGIN + svg.LETTER * len(name)
    [bar] = [each for each in root.iter(f"{SVG}rect") if each.get("height") == str(svg.BAR)]
    assert float(bar.get("x", 0)) + float(bar.get("width", 0)) <= svg.MARGIN + svg.COLUMN
