"""A report in one HTML file that needs nothing else: no network, no other file."""

import base64
import re
from collections.abc import Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from lightning_app.report.section import Section
from lightning_app.report.table import Table

if TYPE_CHECKING:  # matplotlib takes a second to import
    from lightning_app.report.pictures import Picture

PIXELS_PER_INCH = 96
"""Of CSS: at this size text is as many points high as it was drawn."""


def html_report(title: str, sections: Sequence[Section]) -> str:
    """Return the report as one HTML page, readable on a screen and on a phone, in light and in dark.

    Its script sorts tables and enlarges pictures, and is the only one that a browser runs on the page.

    Args:
        title: of the page.
        sections: in this order; the first stands out.
    """
    style, script = (f"\n{_file(name)}" for name in ("page.css", "page.js"))
    allowed = f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{allowed}">',
            f"<title>{escape(title)}</title>",
            f"<style>{style}</style>",
            "</head>",
            "<body>",
            f"<h1>{escape(title)}</h1>",
            *map(_section, sections),
            f"<script>{script}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"


def _section(section: Section) -> str:
    return "\n".join(
        [
            "<section>",
            f"<h2>{escape(section.heading)}</h2>",
            *(f"<p>{_marked(paragraph)}</p>" for paragraph in section.text),
            *([f'<pre class="code" tabindex="0">{escape(section.code)}</pre>'] if section.code else []),
            *map(_table, section.tables),
            *map(_picture, section.pictures),
            *_notes(section.notes),
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
    return "\n".join(
        [
            "<figure>",
            f"<figcaption><p>{_marked(table.caption)}</p></figcaption>",
            # A box that scrolls takes the focus, so that the keyboard can scroll it.
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.caption)}">',
            f"<table>\n<thead><tr>{header}</tr></thead>\n<tbody>",
            *(f"<tr>{row}</tr>" for row in rows),
            "</tbody>\n</table>\n</div>",
            *_notes(table.notes),
            "</figure>",
        ]
    )


def _notes(notes: Sequence[str]) -> list[str]:
    return [f"<ul>{''.join(f'<li>{_marked(note)}</li>' for note in notes)}</ul>"] if notes else []


def _marked(text: str) -> str:
    """Return a text of which parts between backticks are code, as in Markdown."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _breakable(name: str) -> str:
    """Return a name that may be broken before its long words only: names of tasks make a table of numbers wide."""
    parts = re.split(r"(?<=[A-Za-z0-9])(?=[A-Z][a-z]{4})|(?<=[_ ])|(?=-[a-z])", name)
    return "<wbr>".join(f"<span>{escape(part)}</span>" for part in parts)


def _picture(picture: "Picture") -> str:
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
