"""Tables: medians of runs, as text and as Markdown."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs

Row = dict[str, Any]


@attrs.frozen
class Column:
    """A column of a table.

    Attributes:
        title: Its heading.
        field: The field of rows it shows.
        form: How the number is written; "" shows the smallest and the largest of all runs.
        scale: What the field is multiplied with.
        ratio: Whether it is compared as well where peers took turns.
    """

    title: str
    field: str
    form: str = ".0f"
    scale: float = 1.0
    ratio: bool = False


_MB = 1 / (1 << 20)
_KB = 1 / (1 << 10)
_FOREIGN = Column("foreign cores", "foreign_cores", ".2f")

#: The columns of each kind of scenario; the first is what is compared.
COLUMNS: dict[str, list[Column]] = {
    "bulk": [
        Column("CPU-s/GB", "cpu_s_per_gb", ".3f"),
        Column("min-max", "cpu_s_per_gb", ""),
        Column("client", "cpu_client_per_gb", ".3f"),
        Column("server", "cpu_server_per_gb", ".3f"),
        Column("Gbit/s", "gbps", ".2f", ratio=True),
        Column("min-max", "gbps", ""),
        Column("loadgen CPU-s/GB", "loadgen_cpu_per_gb", ".3f"),
        Column("peak RSS MB", "rss_peak", ".0f", _MB),
        _FOREIGN,
    ],
    "ping": [
        Column("p50 us", "rtt_p50_us"),
        Column("min-max", "rtt_p50_us", ""),
        Column("p90 us", "rtt_p90_us"),
        Column("p99 us", "rtt_p99_us"),
        _FOREIGN,
    ],
    "load": [
        Column("p50 us", "rtt_p50_us"),
        Column("min-max", "rtt_p50_us", ""),
        Column("p99 us", "rtt_p99_us", ratio=True),
        Column("max us", "rtt_max_us"),
        Column("bulk Gbit/s", "bulk_gbps", ".2f", ratio=True),
        Column("unloaded p50 us", "base_p50_us"),
        _FOREIGN,
    ],
    "churn": [
        Column("conn/s", "per_s"),
        Column("min-max", "per_s", ""),
        Column("CPU us/conn", "cpu_us_per_conn", ratio=True),
        Column("client", "cpu_client_us_per_conn"),
        Column("server", "cpu_server_us_per_conn"),
        Column("first byte p50 us", "ttfb_p50_us"),
        Column("p99 us", "ttfb_p99_us"),
        Column("errors", "errors"),
        Column("peak RSS MB", "rss_peak", ".0f", _MB),
    ],
    "integrity": [
        Column("data right, of 4", "data_ok"),
        Column("half-close, of 4", "halfclose_ok"),
        Column("destination closes first, of 4", "dst_first_ok"),
    ],
    "idle": [
        Column("KB/stream", "rss_per_stream", ".2f", _KB),
        Column("client", "rss_client_per_stream", ".2f", _KB),
        Column("server", "rss_server_per_stream", ".2f", _KB),
        Column("opened", "ok"),
        Column("alive", "alive"),
        Column("open s", "open_secs", ".1f"),
        Column("RSS before MB", "rss0", ".0f", _MB),
        Column("RSS MB", "rss", ".0f", _MB),
        Column("CPU/s while idle", "cpu_idle", ".3f"),
    ],
    "wan": [
        Column("down Mbit/s", "down_mbps", ".1f"),
        Column("min-max", "down_mbps", ""),
        Column("up Mbit/s", "up_mbps", ".1f"),
        Column("min-max", "up_mbps", ""),
        Column("first byte, cold, ms", "ttfb_cold_ms", ".1f"),
        Column("known, ms", "ttfb_known_ms", ".1f"),
        Column("new, ms", "ttfb_new_ms", ".1f"),
        Column("CPU-s/GB down", "down_cpu_s_per_gb", ".2f"),
        Column("up", "up_cpu_s_per_gb", ".2f"),
    ],
    "phone": [
        Column("down Mbit/s", "down_mbps", ".2f"),
        Column("min-max", "down_mbps", ""),
        Column("ping p50 ms", "down_rtt_p50_ms"),
        Column("p99 ms", "down_rtt_p99_ms"),
        Column("up Mbit/s", "up_mbps", ".2f"),
        Column("min-max", "up_mbps", ""),
        Column("ping p50 ms", "up_rtt_p50_ms"),
        Column("p99 ms", "up_rtt_p99_ms"),
    ],
    "keystroke": [
        Column("added p50 ms", "added_p50_ms", ".1f"),
        Column("min-max", "added_p50_ms", ""),
        Column("added p99 ms", "added_p99_ms", ".1f"),
        Column("min-max", "added_p99_ms", ""),
        Column("idle p50 ms", "base_p50_us", ".1f", 1e-3),
        Column("bulk Mbit/s", "bulk_mbps", ".1f"),
        Column("road's queue, mean ms", "queue_mean_ms", ".1f"),
        Column("max ms", "queue_max_ms", ".1f"),
    ],
    "cut": [
        Column("survived, of 8", "survived"),
        Column("longest gap ms", "longest_gap_ms"),
        Column("new connection after ms", "recover_ms"),
        Column("transfer right", "transfer_ok"),
    ],
}

#: Fields told while it runs, when they are there.
_BRIEF = (
    "skipped",
    "error",
    "gbps",
    "cpu_s_per_gb",
    "cpu_client_per_gb",
    "cpu_server_per_gb",
    "rtt_p50_us",
    "rtt_p99_us",
    "bulk_gbps",
    "down_mbps",
    "up_mbps",
    "ttfb_cold_ms",
    "ttfb_known_ms",
    "ttfb_new_ms",
    "bulk_mbps",
    "added_p50_ms",
    "added_p99_ms",
    "survived",
    "recover_ms",
    "transfer_ok",
    "per_s",
    "cpu_us_per_conn",
    "ttfb_p50_us",
    "errors",
    "data_ok",
    "halfclose_ok",
    "dst_first_ok",
    "why",
    "ok",
    "alive",
    "open_secs",
    "rss_per_stream",
    "foreign_cores",
)


def brief(row: Row) -> str:
    """Return the gist of a row on one line."""
    parts = [
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name in _BRIEF
        if (value := row.get(name)) not in (None, "")
    ]
    if row.get("rss_peak"):
        parts.append(f"rss_peak={row['rss_peak'] * _MB:.0f}M")
    return " ".join(parts)


def read(paths: Iterable[Path]) -> list[Row]:
    """Return the rows of files of JSON lines.

    Raises:
        ValueError: A line is no JSON object with a peer and a scenario; names file and line.
    """
    rows = []
    for path in paths:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                row["peer"], row["scenario"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{path}:{number}: not a row of a benchmark") from None
            rows.append(row)
    return rows


@attrs.frozen
class Summary:
    """All runs of one peer in one scenario.

    Attributes:
        runs: How many runs have figures.
        values: The figures of each field, in the order of the runs.
        turns: The figures of each turn, by when the peers were started and turn, where they
            took turns.
        trouble: Why there are none, or what went wrong in one.
        kind: Which columns show it.
    """

    runs: int
    values: dict[str, list[float]]
    trouble: str
    kind: str
    turns: dict[tuple[float, int], Row]

    def median(self, field: str) -> float | None:
        """Return the median of a field, or None if no run has it."""
        values = self.values.get(field)
        return statistics.median(values) if values else None


#: Scenario (with the congestion control where there are several), then peer.
Summaries = dict[str, dict[str, Summary]]


def summarize(rows: Sequence[Row]) -> Summaries:
    """Return the runs of each peer in each scenario, in the order they first appear."""
    controls: dict[str, set[str]] = {}
    for row in rows:
        controls.setdefault(row["scenario"], set()).add(row.get("cc", ""))
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        label = row["scenario"]
        if len(controls[label]) > 1:
            label += f" ({row.get('cc')})"
        groups.setdefault(label, {}).setdefault(row["peer"], []).append(row)
    return {
        label: {peer: _summary(group) for peer, group in peers.items()}
        for label, peers in groups.items()
    }


def _summary(rows: Sequence[Row]) -> Summary:
    good = [row for row in rows if not row.get("error") and not row.get("skipped")]
    values: dict[str, list[float]] = {}
    for row in good:
        for name, value in row.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                values.setdefault(name, []).append(value)
    trouble = ""
    for row in rows:
        if row.get("skipped"):
            trouble = f"skipped: {row['skipped']}"
        elif row.get("error"):
            trouble = f"failed: {row['error']}"
    turns = {(row["together"], row["turn"]): row for row in good if "turn" in row}
    return Summary(len(good), values, trouble, rows[0].get("kind", "bulk"), turns)


#: The standard error of a median by that of the mean of as many normal figures: its variance is
#: 1 / (4 n f(m)^2) for many, with the density f at the median m.
_MEDIAN_SCATTER = math.sqrt(math.pi / 2)


def _compared(summary: Summary, base: Summary | None, field: str) -> str:
    """Return the ratio of a field to the base's: of the medians, or the median of the turns' own.

    The latter has its standard error behind it, from four turns on.  It is that of turns of the
    same processes; others, started anew, may differ by more.
    """
    own = summary.median(field)
    reference = base.median(field) if base is not None else None
    if base is None or own is None or not reference:
        return "-"
    ratios = [
        row[field] / base.turns[turn][field]
        for turn, row in summary.turns.items()
        if field in row and base.turns.get(turn, {}).get(field)
    ]
    if not ratios:
        return "-" if summary.turns or base.turns else f"{own / reference:.2f}"
    ratio = f"{statistics.median(ratios):.2f}"
    if len(ratios) < 4 or summary is base:
        return ratio
    error = _MEDIAN_SCATTER * statistics.stdev(ratios) / math.sqrt(len(ratios))
    return f"{ratio} +- {error:.2f}"


def _cell(column: Column, summary: Summary) -> str:
    values = [value * column.scale for value in summary.values.get(column.field, [])]
    if not values:
        return "-"
    if not column.form:
        return f"{min(values):.4g}-{max(values):.4g}"
    return format(statistics.median(values), column.form)


def tables(rows: Sequence[Row], base: str = "") -> list[tuple[str, list[list[str]]]]:
    """Return a title and lines of cells, the heading first, for each scenario.

    Args:
        rows: What was measured.
        base: A peer; the last columns then are ratios to it.
    """
    made = []
    for label, peers in summarize(rows).items():
        columns = COLUMNS[next(iter(peers.values())).kind]
        compared = columns[:1] if base else []
        if base and any(summary.turns for summary in peers.values()):
            compared = columns[:1] + [column for column in columns if column.ratio]
        lines = [["peer", *(column.title for column in columns), "runs"]]
        lines[0] += [f"{column.title} x {base}" for column in compared]
        for peer, summary in peers.items():
            line = [peer, *(_cell(column, summary) for column in columns), str(summary.runs)]
            line += [_compared(summary, peers.get(base), column.field) for column in compared]
            lines.append(line)
        made.append((label, lines))
    return made


def troubles(rows: Sequence[Row]) -> list[str]:
    """Return a line for each peer that was skipped or failed, with the scenarios it missed."""
    found: dict[tuple[str, str], list[str]] = {}
    for label, peers in summarize(rows).items():
        for peer, summary in peers.items():
            if summary.trouble:
                found.setdefault((peer, summary.trouble), []).append(label)
    return [f"{peer} ({', '.join(where)}) {why}" for (peer, why), where in found.items()]


def caption(rows: Sequence[Row]) -> str:
    """Return where and when rows were made, on one line."""

    def all_of(name: str) -> str:
        return " and ".join(dict.fromkeys(str(row[name]) for row in rows if row.get(name)))

    days = {time.strftime("%Y-%m-%d", time.gmtime(row["time"])) for row in rows if "time" in row}
    parts = [
        all_of("machine"),
        f"Linux {all_of('kernel')}",
        f"Python {all_of('python')}",
        f"commit {all_of('commit')}",
        f"TCP {all_of('cc')}",
        " to ".join(dict.fromkeys([min(days), max(days)])) if days else "",
        _how_often(rows),
    ]
    return ", ".join(part for part in parts if part)


def _how_often(rows: Sequence[Row]) -> str:
    runs = max((row.get("run", 1) for row in rows), default=0)
    turns = max((row.get("turn", 0) for row in rows), default=0)
    if turns:
        return f"medians of {turns} turns in each of {runs} run{'s' * (runs > 1)}"
    return f"medians of {runs} interleaved runs" if runs > 1 else "one run"


def text(rows: Sequence[Row], base: str = "") -> str:
    """Return the tables for a terminal."""
    lines = [caption(rows)]
    for title, table in tables(rows, base):
        widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
        lines += ["", title]
        for name, *cells in table:
            padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
            lines.append("  ".join(["", name.ljust(widths[0]), *padded]))
    return "\n".join([*lines, "", *troubles(rows)]).rstrip() + "\n"


def markdown_row(cells: Iterable[object]) -> str:
    """Return one row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def markdown(rows: Sequence[Row], base: str = "", level: int = 3) -> str:
    """Return the tables in Markdown, under headings of a level."""
    lines = [f"{caption(rows)}."]
    for title, (heading, *table) in tables(rows, base):
        lines += ["", f"{'#' * level} {title}", ""]
        lines.append(markdown_row(heading))
        lines.append("| --- |" + " ---: |" * (len(heading) - 1))
        lines += map(markdown_row, table)
    noted = troubles(rows)
    if noted:
        lines += ["", *(f"- {line}" for line in noted)]
    return "\n".join(lines) + "\n"
