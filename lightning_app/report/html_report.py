"""A report in one HTML file that needs nothing else: no network, no script, no other file."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from lightning_app.report.pictures import Picture
from lightning_app.report.table import Table

PIXELS_PER_INCH = 96
"""Of CSS: at this size text is as many points high as it was drawn."""

STYLE = """
:root {
  color-scheme: light dark;
  --text: #1b1f24; --faint: #57606a; --page: #ffffff; --band: #f3f5f7; --line: #d0d7de;
}
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e9ec; --faint: #a3adb8; --page: #15181c; --band: #20252b; --line: #3a424b; }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 78rem; color: var(--text); background: var(--page);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; -webkit-text-size-adjust: 100%;
}
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1.5rem; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 3rem 0 1rem; padding-top: .5rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; line-height: 1.35; margin: 0 0 .25rem; }
p { margin: .25rem 0 .75rem; max-width: 46rem; }
figure { margin: 0 0 2.5rem; }
.scroll { width: fit-content; max-width: 100%; overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; font-size: .95rem; }
th, td { padding: .35rem .75rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { background: var(--band); font-weight: 600; white-space: normal; vertical-align: bottom; }
tr > :first-child {
  position: sticky; left: 0; text-align: left; background: var(--page); border-right: 1px solid var(--line);
}
thead span { white-space: nowrap; }
tbody th { font-weight: 400; }
thead tr > :first-child { background: var(--band); }
.best { font-weight: 700; }
ul { margin: .5rem 0 0; padding-left: 1.2rem; color: var(--faint); font-size: .9rem; }
.picture { background: #ffffff; padding: .5rem; }
.picture img { display: block; margin: 0 auto; max-width: 100%; min-width: 32rem; height: auto; }
details { margin-top: .5rem; max-width: 44rem; }
summary { cursor: pointer; color: var(--faint); font-size: .9rem; }
pre {
  margin: .5rem 0 0; padding: .75rem; max-height: 20rem; overflow: auto; background: var(--band); font-size: .8rem;
}
@media (max-width: 40rem) {
  th, td { padding: .35rem .5rem; font-size: .9rem; }
  tr > :first-child { white-space: normal; min-width: 7rem; max-width: 45vw; }
}
""".strip()


@dataclass(frozen=True)
class Section:
    """A part of a report; its tables come before its pictures.

    Args:
        heading: of the part.
        tables: in this order.
        pictures: in this order.
    """

    heading: str
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()


def html_report(title: str, sections: Sequence[Section]) -> str:
    """The report as one HTML page, readable on a screen and on a phone, in light and in dark.

    Args:
        title: of the page.
        sections: in this order; the one with the main table first.
    """
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{STYLE}\n</style>",
            "</head>",
            "<body>",
            f"<h1>{escape(title)}</h1>",
            *map(_section, sections),
            "</body>",
            "</html>",
            "",
        ]
    )


def _section(section: Section) -> str:
    return "\n".join(
        [
            "<section>",
            f"<h2>{escape(section.heading)}</h2>",
            *map(_table, section.tables),
            *map(_picture, section.pictures),
            "</section>",
        ]
    )


def _table(table: Table) -> str:
    def cell(row: int, column: int, text: str) -> str:
        tag = 'th scope="row"' if column == 0 else "td"
        best = ' class="best"' if (row, column) in table.bold else ""
        return f"<{tag}{best}>{escape(text)}</{tag[:2]}>"

    header = "".join(f'<th scope="col">{_breakable(name)}</th>' for name in table.header)
    rows = ["".join(cell(i, j, text) for j, text in enumerate(row)) for i, row in enumerate(table.rows)]
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    return "\n".join(
        [
            "<figure>",
            f"<figcaption><p>{escape(table.caption)}</p></figcaption>",
            # A box that scrolls takes the focus, so that the keyboard can scroll it.
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.caption)}">',
            f"<table>\n<thead><tr>{header}</tr></thead>\n<tbody>",
            *(f"<tr>{row}</tr>" for row in rows),
            "</tbody>\n</table>\n</div>",
            *([f"<ul>{notes}</ul>"] if notes else []),
            "</figure>",
        ]
    )


def _breakable(name: str) -> str:
    """A name that may be broken before its long words only; names of tasks make a table of short numbers wide."""
    parts = re.split(r"(?<=[A-Za-z0-9])(?=[A-Z][a-z]{4})|(?<=_)|(?=-[a-z])", name)
    return "<wbr>".join(f"<span>{escape(part)}</span>" for part in parts)


def _picture(picture: Picture) -> str:
    width, height = (round(inches * PIXELS_PER_INCH) for inches in picture.figure.get_size_inches())
    data = base64.b64encode(picture.png).decode()
    title, sentence = escape(picture.title), escape(picture.sentence)
    return "\n".join(
        [
            "<figure>",
            f"<figcaption><h3>{title}</h3>\n<p>{sentence}</p></figcaption>",
            f'<div class="scroll picture" tabindex="0" role="region" aria-label="{title}">',
            f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{title}. {sentence}">',
            "</div>",
            f"<details><summary>{escape(picture.name)}.csv</summary>\n<pre>{escape(picture.csv())}</pre></details>",
            "</figure>",
        ]
    )
