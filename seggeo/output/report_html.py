"""`report.html`: one file that opens offline and can be mailed, of a whole folder of slides.

1. `write_report` sets the text first and shares what is left of 5 MB among the slides' pictures (`_Budget`).
2. A summary, failures before everything else, a table with one line a slide, a section for each, then the settings.

Nothing is loaded from anywhere and no script runs: a content policy in the head forbids both. Every text is escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from seggeo.files import publishing
from seggeo.output.density import Ratio
from seggeo.output.report_html_page import cards, page, raw_table, settings_table, table
from seggeo.output.report_html_records import FolderReport, Picture, SlideFailure, SlideReport, pack
from seggeo.output.report_html_svg import interval_bar, size_histogram
from seggeo.output.report_html_time import time_section

MOST_BYTES = 4_800_000
_SECTIONS, _ROWS = 300, 5000  # slides with a section, and with a row; counts.csv has them all


def write_report(report: FolderReport, path: Path) -> Path:
    """Write the report as one HTML file below 5 MB and return `path`.

    Pictures shrink as slides become many; beyond 300 slides only the first have a section, beyond 5000 only the first a line.

    Raises:
        OutputError: `path` cannot be written.
        ResourceError: The disk is full.
    """
    text = len(_page(report, _Budget(slides=1, total=0)).encode())
    budget = _Budget(slides=min(len(report.slides), _SECTIONS), total=max(MOST_BYTES - text, 0) * 3 // 4)
    with publishing(path) as temporary:
        temporary.write_bytes(_page(report, budget).encode())
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Budget:
    """Bytes of pictures: the same for each slide, so that no slide's picture depends on another's."""

    slides: int
    total: int

    def fitted(self, slide: SlideReport) -> Mapping[int, bytes]:
        """Packed pictures of a slide by `id`, reduced until they fit; empty where too little is left to show anything."""
        pictures = [p for p in (slide.tissue, slide.density_map, *slide.suspicious) if p is not None]
        room = self.total // max(self.slides, 1)
        if not pictures or room < 1500 * len(pictures):
            return {}
        size = sum(len(p.jpeg) for p in pictures)
        return {id(p): _reduced(p.jpeg, room * len(p.jpeg) // size) if size > room else p.jpeg for p in pictures}


def _reduced(jpeg: bytes, room: int) -> bytes:
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    most = max(image.size)
    while len(jpeg) > room and most > 48:
        most = min(int(most * max(0.95 * (room / len(jpeg)) ** 0.5, 0.3)), most - 8)
        jpeg = pack(image, most, 70)
    return jpeg


def _page(report: FolderReport, budget: _Budget) -> str:
    return page(
        report.title,
        f"{_summary(report)}{_failures(report.failures)}{_overview(report.slides)}"
        f"{''.join(_section(i, s, budget) for i, s in enumerate(report.slides[:_SECTIONS]))}{settings_table(report.settings)}",
    )


def _summary(report: FolderReport) -> str:
    known = [s.density for s in report.slides if s.density]
    figures = {
        "slides counted": f"{len(report.slides):,}", "slides failed": f"{len(report.failures):,}",
        "cells": f"{sum(s.count for s in report.slides):,}", "mm² of tissue": f"{sum(d.area_mm2 for d in known):,.1f}",
    }  # fmt: skip
    return cards(figures)


def _failures(failures: Sequence[SlideFailure]) -> str:
    if not failures:
        return ""
    rows = [[f.name, f.what, f.why, f.mend] for f in failures[:_ROWS]]
    return f'<div class="bad"><h3>Not counted</h3>{table(["slide", "what", "why", "what to do"], rows)}</div>\n'


def _overview(slides: Sequence[SlideReport]) -> str:
    top = max((s.density.per_mm2.high for s in slides if s.density), default=1.0)
    with_share = any(s.positivity for s in slides)
    head = ["slide", "cells", "tissue, mm²", "per mm²", "95 % interval", *(["positive"] if with_share else []), "notes"]
    rows = []
    for i, s in enumerate(slides[:_ROWS]):
        name = f'<a href="#slide{i}">{escape(s.name)}</a>' if i < _SECTIONS else escape(s.name)
        d = s.density
        numbers = ["", "", ""] if d is None else [
            f"{d.area_mm2:,.2f}", f"{d.per_mm2.value:,.0f}",
            f"{d.per_mm2.low:,.0f} to {d.per_mm2.high:,.0f} {interval_bar(d, top)}",
        ]  # fmt: skip
        share = [_share(s.positivity)] if with_share else []
        notes = f'<span class="warn">{len(s.warnings)} warning{"s" * (len(s.warnings) > 1)}</span>' if s.warnings else ""
        rows.append([name, f"{s.count:,}", *numbers, *share, notes])
    numeric = {1, 2, 3, 4, 5} if with_share else {1, 2, 3, 4}
    said = f'<p class="quiet">The first {_ROWS} of {len(slides)} slides; counts.csv has all.</p>' if len(slides) > _ROWS else ""
    note = (
        '<p class="quiet">Densities are cells in tissue over tissue area. The interval says what another piece of the same '
        "tissue would give, from the spread between blocks of the slide; it does not cover cells the model missed.</p>"
    )
    return f"<h2>Slides</h2>{raw_table(head, rows, numeric)}{said}{note}\n"


def _section(index: int, slide: SlideReport, budget: _Budget) -> str:
    packed = budget.fitted(slide)
    maps = [p for p in (slide.tissue, slide.density_map) if p is not None]
    lines = [f"{slide.count:,} cells"]
    if slide.density:
        d = slide.density
        lines.append(
            f"{str(d).replace('mm2', 'mm²')}; {d.per_mm2.blocks} blocks of {d.block_mm:.2f} mm, {d.count:,} cells in tissue"
        )
    if slide.positivity:
        lines.append(f"positive: {_share(slide.positivity)}")
    warnings = "".join(f'<p class="warn">{escape(w)}</p>' for w in slide.warnings)
    total = max(sum(slide.classes.values()), 1)
    classes = [[name, f"{n:,}", f"{n / total:.1%}"] for name, n in slide.classes.items()]
    facts = [[k, v] for k, v in slide.facts.items()]
    files = ", ".join(f'<a href="{escape(quote(p))}">{escape(k)}</a>' for k, p in slide.files.items())
    tiles = (
        f'<h3>Worth a look</h3><div class="row tiles">{_figures(slide.suspicious, packed)}</div>' if slide.suspicious else ""
    )
    return (
        f'<h2 id="slide{index}">{escape(slide.name)}</h2><p>{escape("; ".join(lines))}</p>{warnings}'
        f'<div class="row">{_figures(maps, packed)}<div>{size_histogram(slide.sizes, slide.size_unit)}'
        f"{table(['class', 'cells', 'share'], classes, {1, 2}) if classes else ''}"
        f"{table([], facts) if facts else ''}{f'<p>{files}</p>' if files else ''}</div></div>{tiles}"
        f"{time_section(slide.time, 'h3')}\n"
    )


def _figures(pictures: Sequence[Picture], packed: Mapping[int, bytes]) -> str:
    shown = [(p, packed[id(p)]) for p in pictures if id(p) in packed]
    return "".join(
        f'<figure><img alt="{escape(p.caption)}" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
        f"<figcaption>{escape(p.caption)}</figcaption></figure>"
        for p, jpeg in shown
    )


def _share(ratio: Ratio | None) -> str:
    return "" if ratio is None else f"{ratio.value:.1%} ({ratio.low:.1%} to {ratio.high:.1%})"
