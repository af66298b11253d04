"""What all reports share: one page that opens offline, its look, and tables.

Nothing is loaded from anywhere and no script runs: a content policy in the head forbids both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#222;background:#fff;max-width:1180px;margin:1.5em auto;padding:0 1em}
h1{font-size:1.5em;margin:0 0 .2em}h2{font-size:1.15em;border-top:1px solid #ccc;padding-top:1em;margin:1.6em 0 .5em}
h3{font-size:.95em;margin:1em 0 .3em}table{border-collapse:collapse}td,th{padding:.25em .7em .25em 0;text-align:left;
vertical-align:top;border-bottom:1px solid #eee}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.cards{display:flex;gap:2em;flex-wrap:wrap;margin:1em 0}.cards b{display:block;font-size:1.6em;font-weight:600}
.bad{background:#fdf0ed;border-left:4px solid #b5452c;padding:.3em 1em .8em}.warn{color:#8a5a00}.quiet{color:#666}
figure{margin:0 1em 1em 0}figure img{max-width:100%;height:auto;border:1px solid #ddd}figcaption{font-size:.85em;color:#555}
.row{display:flex;flex-wrap:wrap;align-items:flex-start}.row>figure{flex:1 1 320px;max-width:520px}
.tiles>figure{flex:0 1 250px}.hist{width:340px;font-size:11px}.ci{width:168px;height:14px}code{word-break:break-all}
@media print{h2{break-before:auto}figure{break-inside:avoid}}
"""


def page(title: str, body: str) -> str:
    """A whole page.

    Args:
        title: Plain text, which is its heading too.
        body: HTML that escapes whatever comes from files.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>\n'
        f"<h1>{escape(title)}</h1>{body}</body></html>\n"
    )


def cards(figures: Mapping[str, str]) -> str:
    """Figures in large type, by what they count."""
    return f'<div class="cards">{"".join(f"<div><b>{escape(v)}</b>{escape(k)}</div>" for k, v in figures.items())}</div>\n'


def settings_table(settings: Mapping[str, str]) -> str:
    """The section of settings; empty without any."""
    rows = [[escape(k), f"<code>{escape(v)}</code>"] for k, v in settings.items()]
    return f"<h2>Settings</h2>{raw_table([], rows)}\n" if rows else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: frozenset[int] | set[int] = frozenset()) -> str:
    """A table of plain texts."""
    return raw_table(head, [[escape(cell) for cell in row] for row in rows], numeric)


def raw_table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: frozenset[int] | set[int] = frozenset()) -> str:
    """A table whose cells are HTML already; `numeric` columns are set to the right."""
    kind = [' class="n"' if i in numeric else "" for i in range(max(map(len, [head, *rows])))]
    top = "".join(f"<th{kind[i]}>{escape(h)}</th>" for i, h in enumerate(head))
    body = "".join(f"<tr>{''.join(f'<td{kind[i]}>{c}</td>' for i, c in enumerate(row))}</tr>" for row in rows)
    return f"<table>{f'<tr>{top}</tr>' if top else ''}{body}</table>"
