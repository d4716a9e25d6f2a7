"""A part of a report, and the report in Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_app.report.table import Table

if TYPE_CHECKING:  # matplotlib takes a second to import
    from lightning_app.report.pictures import Picture


@dataclass(frozen=True)
class Section:
    """A part of a report; what it says comes before its tables, and its tables before its pictures.

    Args:
        heading: of the part.
        text: paragraphs.
        code: lines to copy, under the text.
        tables: in this order.
        pictures: in this order.
        notes: lines under all of it.
    """

    heading: str
    text: Sequence[str] = ()
    code: str = ""
    tables: Sequence[Table] = ()
    pictures: "Sequence[Picture]" = ()
    notes: Sequence[str] = ()

    def __bool__(self) -> bool:
        """Return whether there is anything below the heading."""
        return bool(self.text or self.tables or self.pictures or self.notes)


def markdown_report(title: str, sections: Sequence[Section]) -> str:
    """Return the report in Markdown, which reads well on a screen too.

    Args:
        title: of the report.
        sections: in this order.
    """
    parts = [f"# {title}"]
    for section in sections:
        parts += [f"## {section.heading}", *section.text]
        parts += ["\n".join(f"    {line}" for line in section.code.splitlines())] if section.code else []
        parts += [table.markdown() for table in section.tables]
        parts += [f"![{p.title}](pictures/{p.name}.png)\n\n{p.sentence}" for p in section.pictures]
        parts += ["\n".join(f"- {note}" for note in section.notes)] if section.notes else []
    return "\n\n".join(parts) + "\n"
