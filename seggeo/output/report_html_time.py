"""The section of a report that says where the time went: one bar cut into phases, and a table of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

from seggeo.output.report_html_page import raw_table, table

_WIDTH, _HEIGHT = 640, 26
_COLOURS = {
    "plan": "#b9a06b", "start": "#d9c48f", "wait": "#b5452c", "model": "#4a6296", "encode": "#7a8fb5",
    "store": "#8a7a9b", "idle": "#dddddd", "merge": "#3f7f6f", "write": "#6fae9f",
}  # fmt: skip
_ELSE = "#999999"
_LEAST = 0.001
"""Phases of a smaller share are not told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeUse:
    """Where the time of a run went."""

    seconds: Mapping[str, float]
    """Wall time by phase, in order; together all of it."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Lines beside it: speed, memory."""


def time_section(use: TimeUse | None, heading: str = "h2") -> str:
    """The section; empty without a profile, or where no time passed.

    Args:
        use: Where the time went.
        heading: Tag of its title.
    """
    total = 0.0 if use is None else sum(use.seconds.values())
    if use is None or total <= 0:
        return ""
    shares = {phase: seconds / total for phase, seconds in use.seconds.items() if seconds / total >= _LEAST}
    rows = [
        [f"{_swatch(phase)} {escape(phase)}", f"{use.seconds[phase]:,.2f}", f"{share:.1%}"] for phase, share in shares.items()
    ]
    facts = [[name, text] for name, text in use.facts.items()]
    return (
        f"<{heading}>Where the time went</{heading}>{_bar(shares)}"
        f'<div class="row"><div style="margin-right:3em">{raw_table(["phase", "s", "share"], rows, {1, 2})}</div>'
        f"{table([], facts) if facts else ''}</div>\n"
    )


def _bar(shares: Mapping[str, float]) -> str:
    drawn, at = [], 0.0
    for phase, share in shares.items():
        width = _WIDTH * share
        drawn.append(
            f'<rect x="{at:.1f}" width="{width:.1f}" height="{_HEIGHT}" fill="{_colour(phase)}">'
            f"<title>{escape(phase)} {share:.1%}</title></rect>"
        )
        if width > 9 * len(phase):  # px: wide enough for its name
            drawn.append(f'<text x="{at + 6:.1f}" y="17" fill="{_ink(phase)}" font-size="12">{escape(phase)}</text>')
        at += width
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" style="width:100%;max-width:{_WIDTH}px" role="img">'
        f"<title>share of each phase</title>{''.join(drawn)}</svg>"
    )


def _swatch(phase: str) -> str:
    return f'<svg width="10" height="10"><rect width="10" height="10" fill="{_colour(phase)}"/></svg>'


def _colour(phase: str) -> str:
    return _COLOURS.get(phase, _ELSE)


def _ink(phase: str) -> str:
    """White on dark phases, black on light ones."""
    red, green, blue = (int(_colour(phase)[i : i + 2], 16) for i in (1, 3, 5))
    return "#fff" if 0.3 * red + 0.6 * green + 0.1 * blue < 150 else "#222"
