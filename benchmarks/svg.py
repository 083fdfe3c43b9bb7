"""Bar charts as SVG: panels of horizontal bars, best first, with the range of all runs.

Plain text with a handful of shapes: it needs no library, diffs well, and any browser and code
host shows it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape

import attrs

#: Pixels.
COLUMN, GAP, MARGIN = 500, 26, 20
LABEL, VALUE = 190, 56
BAR, PITCH = 14, 21
TITLE, LEGEND, LINE = 44, 22, 15
TEXT, SMALL = 12, 11

#: A letter of a label, in bold and the widest of common fonts.
LETTER = 7.6

#: Letters of a caption that fit on a line, for each panel of width.
CAPTION_LETTERS = 80

#: How many times as long as the one in the middle a bar may be.
CUT = 3

INK, FAINT, RULE = "#1c2733", "#5b6773", "#dde2e7"
#: First and second part of a bar, by what it shows: ours, others, and the limits of the machine.
COLOURS = {
    "ours": ("#0b6bcb", "#7fb4ea"),
    "other": ("#8a939c", "#c6ccd2"),
    "limit": ("#c9a227",),
}


@attrs.frozen
class Bar:
    """One peer's bar.

    Attributes:
        label: Whose it is.
        parts: Lengths that add up to the value.
        low: The smallest of all runs.
        high: The largest.
        kind: A key of `COLOURS`.
    """

    label: str
    parts: Sequence[float]
    low: float
    high: float
    kind: str

    @property
    def value(self) -> float:
        """What the bar shows."""
        return sum(self.parts)


@attrs.frozen
class Panel:
    """Bars with one scale.

    Attributes:
        title: What is shown.
        unit: What the numbers are, and which are better.
        bars: From top to bottom.
        form: How a value is written.
    """

    title: str
    unit: str
    bars: Sequence[Bar]
    form: str

    @property
    def height(self) -> int:
        """Pixels from the top of the title to below the last bar."""
        return TITLE + len(self.bars) * PITCH


def text(
    x: float,
    y: float,
    words: str,
    *,
    size: int = TEXT,
    fill: str = INK,
    anchor: str = "start",
    bold: bool = False,
) -> str:
    """Return a line of text; `y` is its baseline."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" '
        f'text-anchor="{anchor}"{weight}>{escape(words)}</text>'
    )


def rectangle(x: float, y: float, width: float, height: float, fill: str) -> str:
    """Return a filled rectangle."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:g}" '
        f'fill="{fill}"/>'
    )


def line(x1: float, y1: float, x2: float, y2: float, stroke: str) -> str:
    """Return a thin line."""
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{stroke}" fill="none"/>'


def full_length(bars: Sequence[Bar]) -> float:
    """Return what the longest bar stands for; what is far beyond the others is cut short."""
    ends = sorted(max(bar.value, bar.high) for bar in bars)
    typical = ends[len(ends) // 2] if ends else 0
    return min(ends[-1], CUT * typical) if typical else max([*ends, 1.0])


def draw_panel(panel: Panel, left: float, top: float) -> list[str]:
    """Return the shapes of a panel."""
    shapes = [
        text(left, top + 14, panel.title, size=14, bold=True),
        text(left, top + 31, panel.unit, size=SMALL, fill=FAINT),
    ]
    labels = max([LABEL, *(8 + LETTER * len(bar.label) for bar in panel.bars)])
    start = left + labels
    room = COLUMN - labels - VALUE
    longest = full_length(panel.bars)
    for number, bar in enumerate(panel.bars):
        y = top + TITLE + number * PITCH
        middle = y + BAR / 2
        bold = bar.kind == "ours"
        shapes.append(text(start - 8, y + BAR - 3, bar.label, anchor="end", bold=bold))
        x = start
        for part, colour in zip(bar.parts, COLOURS[bar.kind], strict=False):
            width = min(part / longest * room, start + room - x)
            shapes.append(rectangle(x, y, width, BAR, colour))
            x += width
        if bar.value > longest:  # cut short: a gap in it says so
            shapes += [rectangle(x - cut, y, 3, BAR, "#ffffff") for cut in (14, 8)]
        low, high = (start + min(value / longest, 1) * room for value in (bar.low, bar.high))
        if high - low > 1:
            shapes.append(line(low, middle, high, middle, INK))
            shapes += [line(end, middle - 3, end, middle + 3, INK) for end in (low, high)]
        value = format(bar.value, panel.form)
        shapes.append(text(max(x, high) + 6, y + BAR - 3, value, bold=bold))
    bottom = top + TITLE + len(panel.bars) * PITCH - PITCH + BAR
    shapes.append(line(start, top + TITLE - 4, start, bottom + 4, RULE))
    return shapes


def legend(parts: Sequence[str], top: float, right: float) -> tuple[list[str], float]:
    """Return what the colours mean, in as many lines as it takes, and where they end."""
    left: float = MARGIN
    names = {"ours": "phantom", "other": "other tunnels", "limit": "no tunnel"}
    shapes = []
    for kind, name in names.items():
        for part, colour in zip(parts or [""], COLOURS[kind], strict=False):
            words = f"{name}, {part}" if part else name
            wide = 34 + 6.2 * len(words)
            if left + wide > right:
                left, top = MARGIN, top + LEGEND
            shapes += [
                rectangle(left, top, 12, 12, colour),
                text(left + 17, top + 10, words, size=SMALL),
            ]
            left += wide
    return shapes, top + LEGEND


def figure(
    title: str, panels: Sequence[Panel], caption: str, parts: Sequence[str] = (), columns: int = 2
) -> str:
    """Return a picture.

    Args:
        title: What a reader who does not see it is told.
        panels: Drawn in rows, from left to right.
        caption: Where and when it was measured.
        parts: What the parts of bars are.
        columns: Panels in a row.
    """
    columns = min(columns, len(panels))
    width = 2 * MARGIN + columns * COLUMN + (columns - 1) * GAP
    shapes, top = legend(parts, MARGIN, width - MARGIN)
    top += 8
    for first in range(0, len(panels), columns):
        row = panels[first : first + columns]
        for number, panel in enumerate(row):
            shapes += draw_panel(panel, MARGIN + number * (COLUMN + GAP), top)
        top += max(panel.height for panel in row) + GAP
    for words in textwrap.wrap(caption, CAPTION_LETTERS * columns):
        shapes.append(text(MARGIN, top, words, size=SMALL, fill=FAINT))
        top += LINE
    height = top + MARGIN - LINE
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" '
        f'width="{width}" height="{height:g}" role="img" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">'
    )
    background = rectangle(0, 0, width, height, "#ffffff")
    return (
        "\n".join([head, f"<title>{escape(title)}</title>", background, *shapes, "</svg>"]) + "\n"
    )
