"""Bars and lines as SVG: enough for a page, small enough to need no library."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 760
_PALETTE = (
    "#7a7f87", "#0b7a53", "#6a4fc3", "#c2571a", "#b0306a", "#1f6fb2", "#9a7b0a", "#3d8f8f", "#b3261e", "#5b7f2b",
)  # fmt: skip
# Readers choose dark or light; the file itself follows them.
_STYLE = """
  svg { background: #ffffff } text { font: 13px system-ui, sans-serif; fill: #1b1f24 } .small { font-size: 11px }
  .title { font-size: 15px; font-weight: 600 } .grid { stroke: #d8dce1 } .whisker { stroke: #1b1f24 }
  @media (prefers-color-scheme: dark) {
    svg { background: #14171b } text { fill: #e6e9ee } .grid { stroke: #363c44 } .whisker { stroke: #e6e9ee }
  }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with the spread of its rounds; `color` is an index."""

    label: str
    value: float
    low: float
    high: float
    color: int


@dataclass(frozen=True, slots=True)
class Series:
    """One line: (x, y) with both above 0; `color` is an index."""

    label: str
    points: Sequence[tuple[float, float]]
    color: int


def color(index: int) -> str:
    """The same contestant has the same color in every plot."""
    return _PALETTE[index % len(_PALETTE)]


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Horizontal bars on a linear scale from 0; a whisker spans the rounds."""
    left, right, step, top = 290, 90, 30, 50
    most = max((row.high for row in rows), default=1.0) or 1.0
    scale = (WIDTH - left - right) / most
    parts = []
    for number, row in enumerate(rows):
        y = top + number * step
        end, low, high = (left + scale * value for value in (row.value, row.low, row.high))
        middle = y + 10
        whisker = f"M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8"
        parts += [
            f'<text x="{left - 10}" y="{y + 15}" text-anchor="end">{escape(row.label)}</text>',
            f'<rect x="{left}" y="{y}" width="{end - left:.1f}" height="20" rx="2" fill="{color(row.color)}"/>',
            f'<path class="whisker" d="{whisker}"/>',
            f'<text x="{max(end, high) + 8:.1f}" y="{y + 15}">{row.value:,.0f}</text>',
        ]
    return _document(title, top + len(rows) * step + 10, parts)


def lines(title: str, x_title: str, series: Sequence[Series]) -> str:
    """Lines on two logarithmic scales; the x of every point is a tick. Returns an empty plot for no points."""
    left, right, top, bottom, height = 70, 250, 50, 50, 420
    points = [point for one in series for point in one.points]
    if not points:
        return _document(title, 80, [])
    x_ticks, ys = sorted({x for x, _ in points}), [y for _, y in points]
    low, high = 10 ** math.floor(math.log10(min(ys))), 10 ** math.ceil(math.log10(max(ys)))
    high = high if high > low else low * 10

    def across(x: float) -> float:
        span = math.log(x_ticks[-1] / x_ticks[0]) or 1.0
        return left + (WIDTH - left - right) * math.log(x / x_ticks[0]) / span

    def up(y: float) -> float:
        return height - bottom - (height - bottom - top) * math.log(y / low) / math.log(high / low)

    parts = [
        f'<text class="small" x="{across(x):.1f}" y="{height - bottom + 18}" text-anchor="middle">{x:,.0f}</text>'
        for x in x_ticks
    ]
    middle, below = (left + WIDTH - right) / 2, height - 12
    parts.append(f'<text class="small" x="{middle:.1f}" y="{below}" text-anchor="middle">{escape(x_title)}</text>')
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        y = up(10.0**power)
        parts += [
            f'<path class="grid" d="M{left} {y:.1f}H{WIDTH - right}"/>',
            f'<text class="small" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:,g}</text>',
        ]
    # The legend is in the order in which the lines end, from the top.
    ordered = sorted(series, key=lambda one: -one.points[-1][1] if one.points else 0.0)
    for number, one in enumerate(ordered):
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in one.points)
        fill = color(one.color)
        y = top + 10 + number * 22
        parts += [
            f'<polyline points="{path}" fill="none" stroke="{fill}" stroke-width="2.5"/>',
            *(f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3.5" fill="{fill}"/>' for x, y in one.points),
            f'<rect x="{WIDTH - right + 20}" y="{y - 9}" width="12" height="12" rx="2" fill="{fill}"/>',
            f'<text class="small" x="{WIDTH - right + 38}" y="{y + 1}">{escape(one.label)}</text>',
        ]
    return _document(title, height, parts)


def _document(title: str, height: float, parts: Sequence[str]) -> str:
    box = f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
    caption = f'<text class="title" x="16" y="28">{escape(title)}</text>'
    return "\n".join((head, f"<style>{_STYLE}</style>", caption, *parts, "</svg>", ""))
