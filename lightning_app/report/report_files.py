"""The files of a report: the page, the same in Markdown, and its pictures."""

from collections.abc import Sequence
from pathlib import Path

from lightning_app.report.html_report import html_report
from lightning_app.report.section import Section, markdown_report
from lightning_app.report.tensorboard_log import write_pictures

PAGE = "report.html"


def write_report(run_dir: Path, title: str, sections: Sequence[Section]) -> str:
    """Write ``report.html``, ``report.md``, each picture and its CSV, and the pictures to TensorBoard.

    Args:
        run_dir: of the run.
        title: of the report.
        sections: in this order.

    Returns:
        The report in Markdown.
    """
    pictures = [picture for section in sections for picture in section.pictures]
    run_dir.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        picture.save(run_dir / "pictures")
    write_pictures(pictures, run_dir / "logs")
    text = markdown_report(title, sections)
    (run_dir / "report.md").write_text(text, encoding="utf-8")
    (run_dir / PAGE).write_text(html_report(title, sections), encoding="utf-8")
    return text
