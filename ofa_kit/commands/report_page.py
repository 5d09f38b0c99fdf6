"""One HTML page without anything from elsewhere: sections of text, tables and pictures, for screen and paper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from ofa_kit.commands.report_drawing import COLORS


@dataclass(frozen=True)
class Section:
    """A part of the page, and its numbers for a program."""

    name: str
    title: str
    parts: Sequence[str]
    """HTML, from the functions below."""
    values: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Headline:
    """One number at the top of the page."""

    number: str
    text: str


def page(title: str, subtitle: str, headlines: Sequence[Headline], sections: Sequence[Section]) -> str:
    """Return the whole page."""
    tops = "".join(f"<div><b>{escape(one.number)}</b>{escape(one.text)}</div>" for one in headlines)
    body = "".join(
        f'<section id="{section.name}"><h2>{escape(section.title)}</h2>{"".join(section.parts)}</section>'
        for section in sections
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_css()}</style></head>'
        f'<body><header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p><div class="tops">{tops}</div></header>'
        f"<main>{body}</main></body></html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    """Return a paragraph; what stands between backticks is code."""
    return f'<p class="{kind}">{_marked(text)}</p>'


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> str:
    """Return a table whose first column names the rows."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = "".join(
        f"<tr><th>{escape(row[0])}</th>" + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    return f"<div class='wide'><table>{caption}<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Return a list of names and what they stand for."""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{_marked(text)}</dd>" for name, text in rows) + "</dl>"


def beside(*parts: str) -> str:
    """Return parts side by side where the page is wide enough."""
    return f'<div class="beside">{"".join(parts)}</div>'


def figure(svg: str, caption: str) -> str:
    """Return a picture with what it shows."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _marked(text: str) -> str:
    """Return text as HTML; what stands between backticks is code."""
    pieces = [escape(piece) for piece in text.split("`")]
    return "".join(f"<code>{piece}</code>" if number % 2 else piece for number, piece in enumerate(pieces))


def _css() -> str:
    light, dark = ("".join(f"--{name}:{colors[paper]};" for name, colors in COLORS.items()) for paper in (0, 1))
    return f":root{{{light}--font:system-ui,'DejaVu Sans',sans-serif}}" + (
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}color-scheme:dark}}}}" + STYLE
    )


STYLE = """
body{margin:0 auto;padding:1.5rem;max-width:60rem;background:var(--surface);color:var(--ink);
font:15px/1.5 var(--font)}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2.4rem 0 .6rem;padding-top:.8rem;
border-top:1px solid var(--grid)}
header p,figcaption,.note,caption{color:var(--muted)}header p{margin:.2rem 0 1rem}
p{margin:.5rem 0;max-width:46rem}code{font-size:.92em;background:var(--grid);padding:.05em .3em;border-radius:3px}
.missing{border-left:3px solid var(--predicted);padding-left:.8rem}
.tops{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.8rem}
.tops div{border:1px solid var(--grid);border-radius:6px;padding:.6rem .8rem;font-size:.85rem;color:var(--muted)}
.tops b{display:block;font-size:1.35rem;color:var(--ink);font-weight:600}
.beside{display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:1.2rem;align-items:start}
figure{margin:.8rem 0}figure svg{display:block;width:100%;height:auto}
figcaption{font-size:.85rem;margin-top:.3rem;max-width:46rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1.2rem;margin:.6rem 0}dt{color:var(--muted)}
dd{margin:0;overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums;margin:.6rem 0}
caption{text-align:left;font-weight:600;color:var(--ink);padding-bottom:.2rem}
th,td{padding:.2rem .9rem .2rem 0;text-align:right;white-space:nowrap;font-weight:400;vertical-align:top}
thead th{color:var(--muted);white-space:normal;border-bottom:1px solid var(--grid);vertical-align:bottom}
th:first-child{text-align:left}tbody tr+tr>*{border-top:1px solid var(--grid)}
@media print{body{max-width:none;padding:0;font-size:10pt}figure,table,.tops,dl{break-inside:avoid}
h2,p{break-after:avoid}.wide{overflow:visible}}
"""
