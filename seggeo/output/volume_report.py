"""`report.html` of a volume: what was found, how large, in which slices, what parts and joins; one file that opens offline.

The rows of objects are read once, some thousands at a time; what is kept of each is its size. Every text is escaped.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seggeo.files import publishing
from seggeo.output.report_html_page import cards, page, settings_table, table
from seggeo.output.report_html_records import pack
from seggeo.output.report_html_svg import log_histogram, short
from seggeo.output.report_html_time import TimeUse, time_section
from seggeo.output.volume_slices import slice_counts
from seggeo.protocols import Result

_EVENTS = 50  # shown; the table of objects counts them all
_LARGEST = 10
_BARS = 36
_MONTAGE_PX = 1800
_POWERS = {"2": "\N{SUPERSCRIPT TWO}", "3": "\N{SUPERSCRIPT THREE}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSummary:
    """What a report says beside the objects; plain texts."""

    title: str
    facts: Mapping[str, str] = field(default_factory=dict)
    """Lines about the input: format, shape, spacing, orientation."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What was asked for and what it was run with."""
    warnings: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    """Outputs by kind, paths relative to the report."""
    time: TimeUse | None = None
    """Where it went, if that was counted."""


def write_volume_report(
    result: Result, path: Path, *, rows: Iterable[Mapping[str, NDArray[Any]]], montage: Path | None, summary: VolumeSummary
) -> Path:
    """Write the report of a volume or of a series in time as one HTML file and return `path`.

    Args:
        result: What was found.
        path: The file, replaced if it exists.
        rows: The table of objects, from `volume_objects.iter_rows`, or from `read_rows` where it has been written.
        montage: The picture from `draw_montage`, which becomes a part of the file.
        summary: Title, settings, warnings.

    Raises:
        OutputError: `path` cannot be written.
        ResourceError: The disk is full.
    """
    found, counts = _Found(result), slice_counts(result)
    for columns in rows:
        found.add(columns)
    text = page(
        summary.title,
        f"{_cards(found, counts)}{_warnings(summary.warnings)}{_picture(montage)}{_charts(found, counts)}"
        f"{_linking(result, found)}{_largest(found)}{_details(summary)}{time_section(summary.time)}"
        f"{settings_table(summary.settings)}",
    )
    with publishing(path) as temporary:
        temporary.write_bytes(text.encode())
    return path


class _Found:
    """What a report needs of the rows of objects."""

    def __init__(self, result: Result) -> None:
        unit, self.is_series = result.frame.unit, result.frame.is_series
        self.slice, self.object = ("frame", "track") if self.is_series else ("slice", "object")
        self.unit, self.measure = (f"{unit}2", f"area_mean_{unit}2") if self.is_series else (f"{unit}3", f"volume_{unit}3")
        self.classes: Counter[str] = Counter()
        self.count = self.missed = self.with_missed = self.at_edge = self.single = 0
        self._sizes: list[NDArray[np.float32]] = []
        self.largest: list[tuple[float, int, str, int, int]] = []

    def add(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Take in some rows."""
        if not len(columns["id"]):
            return
        missed, size = columns[f"missed_{self.slice}s"], np.asarray(columns[self.measure], np.float64)
        self.count += len(missed)
        self.missed, self.with_missed = self.missed + int(missed.sum()), self.with_missed + int((missed > 0).sum())
        self.at_edge += int(columns["touches_edge"].sum())
        self.single += int((columns[f"{self.slice}s"] == 1).sum())
        self.classes.update(columns["class"].tolist())
        self._sizes.append(size.astype(np.float32))
        names = ("id", "class", f"first_{self.slice}", f"last_{self.slice}")
        top = np.argsort(-size, kind="stable")[:_LARGEST]
        best = zip(size[top].tolist(), *(columns[name][top].tolist() for name in names), strict=True)
        self.largest = sorted([*self.largest, *best], key=lambda row: (-row[0], row[1]))[:_LARGEST]

    @property
    def sizes(self) -> NDArray[np.float64]:
        """Volume of every object, or mean area of every track."""
        return np.concatenate([np.zeros(0, np.float32), *self._sizes]).astype(np.float64)

    @property
    def label(self) -> str:
        """The unit of sizes, as one writes it."""
        base = self.unit[:-1].replace("um", "\N{MICRO SIGN}m").replace("px", "voxel" if not self.is_series else "px")
        return base if base == "voxel" else base + _POWERS[self.unit[-1]]


def _cards(found: _Found, counts: NDArray[np.int64]) -> str:
    sizes, kind = found.sizes, "area" if found.is_series else "volume"
    figures = {f"{found.object}s": f"{found.count:,}", f"of {len(counts):,} {found.slice}s hold one": f"{(counts > 0).sum():,}"}
    if len(sizes):
        figures[f"median {kind}, {found.label}"] = short(float(np.median(sizes)))
        if not found.is_series:
            figures[f"all volumes, {found.label}"] = short(float(sizes.sum()))
    return cards({**figures, f"touch an edge of the {'frame' if found.is_series else 'volume'}": f"{found.at_edge:,}"})


def _warnings(warnings: Sequence[str]) -> str:
    return "".join(f'<p class="warn">{escape(text)}</p>' for text in warnings)


def _picture(montage: Path | None) -> str:
    if montage is None:
        return ""
    with Image.open(montage) as image:
        jpeg = pack(image.convert("RGB"), _MONTAGE_PX, 85)
    text = "Numbers are slices, counted from 0; an object has one colour in all of them."
    return (
        f'<figure><img alt="slices" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
        f"<figcaption>{text}</figcaption></figure>\n"
    )


def _charts(found: _Found, counts: NDArray[np.int64]) -> str:
    rows = [[name, f"{n:,}", f"{n / found.count:.1%}"] for name, n in sorted(found.classes.items())]
    classes = table(["class", f"{found.object}s", "share"], rows, {1, 2}) if len(rows) > 1 else ""
    charts = _size_chart(found) + slice_curve(counts, (f"{found.object}s", found.slice))
    return f'<h2>Sizes and {found.slice}s</h2><div class="row">{charts}{classes}</div>\n'


def _size_chart(found: _Found) -> str:
    sizes = found.sizes
    if not len(sizes):
        return ""
    logs = np.log10(sizes)
    low, high = (float(v) for v in np.quantile(logs, [0.001, 0.999]))
    low, high = (low - 0.2, high + 0.2) if high - low < 0.4 else (low, high + 1e-6)
    bars = np.histogram(np.clip(logs, low, high), _BARS, (low, high))[0]
    kind = "mean area" if found.is_series else "volume"
    words = f"{found.object}s by {kind}", kind, found.label
    return log_histogram([int(n) for n in bars], (low, high), float(np.median(sizes)), words)


def slice_curve(counts: NDArray[np.int64], words: tuple[str, str]) -> str:
    """How many objects each slice holds, as inline SVG; beyond 340 slices the most of each stretch of them.

    Args:
        counts: Objects in each slice, `(depth,)`.
        words: What is counted, and what a slice is called.
    """
    width, height, base, rise = 340, 160, 118, 100
    step = -(-len(counts) // width)
    padded = np.pad(counts, (0, -len(counts) % step))
    values, top = padded.reshape(-1, step).max(axis=1), max(int(counts.max(initial=0)), 1)
    each = width / len(values)
    line = "".join(
        f"H{i * each:.1f}V{base - rise * v / top:.1f}H{(i + 1) * each:.1f}" for i, v in enumerate(values.tolist())
    )  # fmt: skip
    last = len(counts) - 1
    ticks = sorted({round(last * share) for share in (0, 0.25, 0.5, 0.75, 1)})
    labels = "".join(
        f'<text x="{(t + 0.5) * width / len(counts):.1f}" y="{base + 15}" text-anchor="middle">{t}</text>' for t in ticks
    )  # fmt: skip
    what, name = map(escape, words)
    return (
        f'<svg class="hist" viewBox="-14 0 {width + 28} {height}" role="img"><title>{what} in each {name}</title>'
        f'<path d="M0 {base}{line}V{base}Z" fill="#7a8fb5"/><path d="M0 {base}H{width}" stroke="#888"/>'
        f'<text x="0" y="12">at most {top:,} {what}</text>{labels}'
        f'<text x="{width / 2}" y="{height - 4}" text-anchor="middle">{name}</text></svg>'
    )


def _linking(result: Result, found: _Found) -> str:
    linking, events = result.linking, result.linking.get("events", ())
    kinds = Counter(event["kind"] for event in events)
    facts = [
        [f"cross-sections in {found.slice}s", f"{linking['pieces']:,}"] if "pieces" in linking else [],
        [f"{found.object}s in one {found.slice} only", f"{found.single:,}"],
        [f"{found.object}s with missed {found.slice}s", f"{found.with_missed:,} ({found.missed:,} {found.slice}s)"],
        [f"{found.object}s parted at a neck", f"{linking['parted']:,}"] if linking.get("parted") else [],
        ["places where one becomes several", f"{kinds['branch']:,}"],
        ["places where several become one", f"{kinds['merge']:,}"],
    ]  # fmt: skip
    rows = [[e["kind"], str(e["z"]), str(e["id"]), ", ".join(map(str, e["others"]))] for e in events[:_EVENTS]]
    told = f'<p class="quiet">The first {_EVENTS} of {len(events):,}.</p>' if len(events) > _EVENTS else ""
    shown = f"<h3>Branches and merges</h3>{table(['', found.slice, found.object, 'and'], rows, {1, 2})}{told}" if rows else ""
    note = (
        '<p class="quiet">Each keeps the id of the part that fits best; the others have ids of their own. Look at them: two '
        "that touch look the same.</p>"
    )
    return f"<h2>Linking</h2>{table([], [row for row in facts if row], {1})}{shown}{note if rows else ''}\n"


def _largest(found: _Found) -> str:
    head = ["id", "class", f"{'area' if found.is_series else 'volume'}, {found.label}", f"{found.slice}s"]
    rows = [[str(number), name, short(size), f"{first} to {last}"] for size, number, name, first, last in found.largest]
    return f"<h2>Largest</h2>{table(head, rows, {0, 2})}\n" if rows else ""


def _details(summary: VolumeSummary) -> str:
    files = ", ".join(f'<a href="{escape(quote(p))}">{escape(k)}</a>' for k, p in summary.files.items())
    facts = f"<h2>Input</h2>{table([], list(summary.facts.items()))}\n" if summary.facts else ""
    return facts + (f"<h2>Files</h2><p>{files}</p>\n" if files else "")
