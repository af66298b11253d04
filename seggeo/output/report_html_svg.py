"""Charts of a report as inline SVG: a histogram of sizes, and densities with their intervals side by side."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from seggeo.output.density import SIZE_EDGES, Density

_BARS = 36
_WIDTH = 340


def size_histogram(sizes: Sequence[int], unit: str) -> str:
    """Cells by area on a logarithmic axis, with the median; empty without cells.

    Args:
        sizes: Cells between `SIZE_EDGES`.
        unit: um2 or px.
    """
    counts = np.asarray(sizes, np.int64)
    if not counts.sum():
        return ""
    share = np.cumsum(counts) / counts.sum()
    first, last = int(np.searchsorted(share, 0.001)), int(np.searchsorted(share, 0.999))
    step = max(-(-(last + 1 - first) // _BARS), 1)
    first = max(first - 1, 0)
    bars = [int(counts[i : i + step].sum()) for i in range(first, last + 1, step)]
    edges = SIZE_EDGES[first : last + step + 1]
    low, high = float(np.log10(edges[0])), float(np.log10(SIZE_EDGES[min(first + len(bars) * step, len(SIZE_EDGES) - 1)]))
    label = "px" if unit == "px" else "µm²" if unit == "um2" else unit
    median = float(SIZE_EDGES[int(np.searchsorted(share, 0.5))])
    return log_histogram(bars, (low, high), median, ("cells by area", "cell area", label))


def log_histogram(bars: Sequence[int], span: tuple[float, float], median: float, words: tuple[str, str, str]) -> str:
    """Bars of equal width on a logarithmic axis, with the median marked.

    Args:
        bars: Counts.
        span: Decimal logarithms of the ends of the axis.
        median: In the axis' unit.
        words: What the chart shows, what the axis shows, and its unit.
    """
    low, high = span
    title, axis, unit = map(escape, words)
    width, height, base = _WIDTH, 160, 118
    scale = width / max(high - low, 1e-9)
    drawn = [
        f'<rect x="{i * width / len(bars):.1f}" y="{base - 104 * b / max(bars):.1f}" width="{width / len(bars) - 0.8:.1f}" '
        f'height="{104 * b / max(bars):.1f}"/>'
        for i, b in enumerate(bars)
    ]
    at = (np.log10(median) - low) * scale
    return (
        f'<svg class="hist" viewBox="-8 0 {width + 16} {height}" role="img"><title>{title}</title>'
        f'<g fill="#7a8fb5">{"".join(drawn)}</g><path d="M0 {base}H{width}" stroke="#888"/>'
        f'<path d="M{at:.1f} 8V{base}" stroke="#b5452c" stroke-dasharray="3 3"/>'
        f'<text x="{min(at + 4, width - 96):.1f}" y="16" fill="#b5452c">median {short(median)} {unit}</text>'
        f"{_ticks(low, high, scale, base)}"
        f'<text x="{width / 2}" y="{height - 4}" text-anchor="middle">{axis}, {unit}</text></svg>'
    )


def interval_bar(density: Density, top: float) -> str:
    """A dot for the density and a line for its interval, on an axis from 0 to `top` per mm2."""
    width, d = 160, density.per_mm2
    low, value, high = (min(v / max(top, 1e-9), 1.0) * width for v in (d.low, d.value, d.high))
    return (
        f'<svg class="ci" viewBox="-4 0 {width + 8} 14" role="img"><path d="M0 7H{width}" stroke="#ddd"/>'
        f'<path d="M{low:.1f} 7H{high:.1f}" stroke="#4a6296" stroke-width="3"/>'
        f'<circle cx="{value:.1f}" cy="7" r="3.6" fill="#22314f"/></svg>'
    )


def _ticks(low: float, high: float, scale: float, base: int) -> str:
    exponents = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    values: NDArray[np.float64] = np.array([m * 10.0**e for e in exponents for m in (1, 2, 5)])
    values = values[(np.log10(values) >= low) & (np.log10(values) <= high)]
    if len(values) < 3:
        values = np.array([float(f"{v:.2g}") for v in np.logspace(low, high, 5)])
    values = values[:: -(-len(values) // 9)]
    drawn, free = [], -8.0
    for value in values.tolist():
        x, text = (np.log10(value) - low) * scale, short(value)
        half = 3.1 * len(text)  # px: digits of 11 px type are 6.2 wide
        drawn.append(f'<path d="M{x:.1f} {base}v4" stroke="#888"/>')
        if x - half >= free and x + half <= _WIDTH + 8:
            drawn.append(f'<text x="{x:.1f}" y="{base + 15}" text-anchor="middle">{text}</text>')
            free = x + half + 4
    return "".join(drawn)


def short(value: float) -> str:
    """A number as one writes it beside an axis."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
