"""The pictures of the documentation, from the rows of runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import attrs

from benchmarks import report, svg
from benchmarks.peers import PEERS


@attrs.frozen
class View:
    """One panel: a field of a scenario.

    Attributes:
        scenario: Which rows.
        title: What they are.
        unit: What the numbers are.
        fields: Fields whose sum is shown; the parts of each bar.
        whole: The field whose range is shown; the only one of `fields` if it is "".
        scale: What fields are multiplied with.
        form: How values are written.
        most: Whether more is better.
    """

    scenario: str
    title: str
    unit: str
    fields: Sequence[str]
    whole: str = ""
    scale: float = 1.0
    form: str = ".2f"
    most: bool = False


_CPU = ("cpu_client_per_gb", "cpu_server_per_gb")
_CPU_UNIT = "CPU-seconds per GB (10^9 bytes); less is better"
_GBPS = "Gbit/s, client, server and load on one machine; more is better"
_MS = 1e-3
_KB = 1 / (1 << 10)


def _cpu(scenario: str, title: str) -> View:
    return View(scenario, title, _CPU_UNIT, _CPU, "cpu_s_per_gb")


def _ping(scenario: str, title: str, part: str) -> View:
    unit = f"{part} of the round trip of 64 bytes, ms; less is better"
    return View(scenario, title, unit, [f"rtt_{part}_us"], scale=_MS)


def _rate(scenario: str, title: str) -> list[View]:
    unit = "Mbit/s; more is better"
    return [
        View(scenario, f"{title}, {word}", unit, [f"{mode}_mbps"], form=".3g", most=True)
        for mode, word in (("down", "download"), ("up", "upload"))
    ]


def _first_byte(field: str, title: str) -> View:
    return View("wan-100ms", title, "ms to the first byte; less is better", [field], form=".0f")


#: File name: title, panels, parts of the bars.
FIGURES: dict[str, tuple[str, list[View], Sequence[str]]] = {
    "cpu": (
        "CPU time per gigabyte",
        [
            _cpu("down1", "Download, 1 stream"),
            _cpu("up1", "Upload, 1 stream"),
            _cpu("down16", "Download, 16 streams"),
            _cpu("down200", "Download, 200 streams"),
        ],
        ("client", "server"),
    ),
    "throughput": (
        "Throughput on one machine",
        [
            View("down1", "Download, 1 stream", _GBPS, ["gbps"], most=True),
            View("up1", "Upload, 1 stream", _GBPS, ["gbps"], most=True),
            View("down16", "Download, 16 streams", _GBPS, ["gbps"], most=True),
            View("down200", "Download, 200 streams", _GBPS, ["gbps"], most=True),
        ],
        (),
    ),
    "latency": (
        "Round trips, idle and beside bulk downloads",
        [
            _ping("ping-hot", "Nothing else", "p50"),
            _ping("ping-hot", "Nothing else", "p99"),
            _ping("load1", "Beside 1 download", "p50"),
            _ping("load1", "Beside 1 download", "p99"),
            _ping("load4", "Beside 4 downloads", "p50"),
            _ping("load4", "Beside 4 downloads", "p99"),
        ],
        (),
    ),
    "connections": (
        "Short connections and idle streams",
        [
            View(
                "churn",
                "Short connections",
                "opened, used and closed a second; more is better",
                ["per_s"],
                form=".0f",
                most=True,
            ),
            View(
                "churn",
                "CPU time of a connection",
                "us, client and server; less is better",
                ["cpu_us_per_conn"],
                form=".0f",
            ),
            View(
                "idle2k",
                "Memory of an idle stream",
                "KB, client and server, of 2,000; less is better",
                ["rss_per_stream"],
                scale=_KB,
                form=".1f",
            ),
            View(
                "idle10k",
                "Memory of an idle stream",
                "KB, client and server, of 10,000; less is better",
                ["rss_per_stream"],
                scale=_KB,
                form=".1f",
            ),
        ],
        (),
    ),
    "wide": (
        "Goodput over long roads",
        [
            *_rate("wan-100ms", "100 ms, 200 Mbit/s, 1 stream"),
            *_rate("wan-200ms-lossy", "200 ms, 100 Mbit/s, 1 % loss, 1 stream"),
            *_rate("wan-200ms-lossy-16", "200 ms, 100 Mbit/s, 1 % loss, 16 streams"),
            *_rate("wan-20ms", "20 ms, 1 Gbit/s, 1 stream"),
            *_rate("wan-phone", "A phone's road, 7.6 Mbit/s on average"),
        ],
        (),
    ),
    "first-byte": (
        "Waiting on long roads",
        [
            _first_byte("ttfb_known_ms", "First byte, known destination, 100 ms road"),
            _first_byte("ttfb_new_ms", "First byte, new destination, 100 ms road"),
            View(
                "wan-keystroke",
                "A keystroke beside a download, 40 ms, 10 Mbit/s",
                "ms added to the idle round trip, p50; less is better",
                ["added_p50_ms"],
                form=".0f",
            ),
            View(
                "wan-keystroke",
                "A keystroke beside a download, 40 ms, 10 Mbit/s",
                "ms added to the idle round trip, p99; less is better",
                ["added_p99_ms"],
                form=".0f",
            ),
        ],
        (),
    ),
}


def kind(peer: str) -> str:
    """Return how a peer's bars are coloured."""
    known = PEERS.get(re.split("[@+]", peer)[0])
    if known is None:
        return "other"
    return {"base": "limit", "phantom": "ours", "optional": "ours"}.get(known.group, "other")


def panel(view: View, peers: dict[str, report.Summary]) -> svg.Panel | None:
    """Return a panel, or None if nobody has what it shows."""
    bars = []
    for peer, summary in peers.items():
        parts = [summary.median(field) for field in view.fields]
        whole = summary.values.get(view.whole or view.fields[0])
        numbers = [part * view.scale for part in parts if part is not None]
        if len(numbers) != len(parts) or not whole or not any(numbers):
            continue
        low, high = min(whole) * view.scale, max(whole) * view.scale
        bars.append(svg.Bar(peer, numbers, low, high, kind(peer)))
    if not bars:
        return None
    bars.sort(key=lambda bar: bar.value, reverse=view.most)
    return svg.Panel(view.title, view.unit, bars, view.form)


def draw(rows: Sequence[report.Row], folder: Path) -> list[Path]:
    """Write each picture that there are rows for; return the files."""
    summaries = report.summarize(rows)
    written = []
    for name, (title, views, parts) in FIGURES.items():
        panels = []
        used = set()
        for view in views:
            for label, peers in summaries.items():
                if label.partition(" ")[0] != view.scenario:
                    continue
                control = label.partition(" ")[2]
                named = attrs.evolve(view, title=f"{view.title} {control}".strip())
                if made := panel(named, peers):
                    panels.append(made)
                    used.add(view.scenario)
        if panels:
            caption = report.caption([row for row in rows if row["scenario"] in used])
            path = folder / f"{name}.svg"
            path.write_text(svg.figure(title, panels, caption, parts))
            written.append(path)
    return written
