"""The HTML report: one file that needs nothing else, safe whatever is in it."""

import base64
import csv
from html.parser import HTMLParser

import pytest

from lightning_app.report.html_report import Section, html_report
from lightning_app.report.pictures import Picture
from lightning_app.report.table import Table
from tests import study_examples as examples

VOID = {"meta", "img", "wbr"}

MAIN = Table(
    "Main scores x 100",
    ["model", "SICK-R", "average"],
    [["base", "77.58", "79.62"], ['T < 1 & "quoted"', "78.42", "80.25"]],
    bold={(1, 1), (1, 2)},
    notes=["one seed <b>only</b>"],
)


class Page(HTMLParser):
    """Tags with their attributes in order, and the texts; fails where tags are not nested."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1], data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def texts_of(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return [examples.conflict(), examples.landscape()]


@pytest.fixture(scope="module")
def page(pictures: list[Picture]) -> Page:
    sections = [
        Section("Scores", tables=[MAIN]),
        Section("Why <merge>", [Table("small", ["of_Banking77Classification"], [["1"]])], pictures),
    ]
    return Page(html_report("Study of <runs/a>", sections))


def test_nothing_is_fetched_and_nothing_runs(page: Page, pictures: list[Picture]) -> None:
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "base", "form"})
    style = " ".join(page.texts_of("style"))
    assert "url(" not in style and "@import" not in style
    assert all(not attributes.keys() & {"href", "srcset", "style", "onload"} for _, attributes in page.tags)
    assert [tag for tag, attributes in page.tags if "src" in attributes] == ["img"] * len(pictures)
    for image, picture in zip(page.all("img"), pictures, strict=True):
        kind, _, data = str(image["src"]).partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data, validate=True) == picture.png


def test_a_picture_comes_with_title_sentence_alternative_text_and_numbers(page: Page, pictures: list[Picture]) -> None:
    assert page.texts_of("h3") == [picture.title for picture in pictures]
    assert {picture.sentence for picture in pictures} <= set(page.texts_of("p"))
    assert [image["alt"] for image in page.all("img")] == [f"{p.title}. {p.sentence}" for p in pictures]
    assert (page.all("img")[0]["width"], page.all("img")[0]["height"]) == ("672", "453")
    assert len(page.all("details")) == len(pictures)
    for text, picture in zip(page.texts_of("pre"), pictures, strict=True):
        assert list(csv.reader(text.splitlines())) == list(csv.reader(picture.csv().splitlines()))


def test_tables_come_first_and_text_is_escaped(page: Page) -> None:
    order = [tag for tag, _ in page.tags if tag in ("section", "table", "img")]
    assert order == ["section", "table", "section", "table", "img", "img"]
    assert page.texts_of("h1") == page.texts_of("title") == ["Study of <runs/a>"]
    assert page.texts_of("h2") == ["Scores", "Why <merge>"]
    header = ["model", "SICK-R", "average", "of_", "Banking77", "Classification"]
    assert page.texts_of("span") == header and len(page.all("wbr")) == 2
    assert page.texts_of("th") == ["base", 'T < 1 & "quoted"', "1"]
    assert page.texts_of("td") == ["77.58", "79.62", "78.42", "80.25"]
    assert [attributes.get("class") for attributes in page.all("td")] == [None, None, "best", "best"]
    assert page.texts_of("li") == ["one seed <b>only</b>"]


def test_the_same_table_in_markdown() -> None:
    assert MAIN.markdown().splitlines() == [
        "Main scores x 100",
        "",
        "| model            |    SICK-R |   average |",
        "|------------------|----------:|----------:|",
        "| base             |     77.58 |     79.62 |",
        '| T < 1 & "quoted" | **78.42** | **80.25** |',
        "",
        "- one seed <b>only</b>",
    ]


def test_a_row_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="table 'sizes': 1 cells under 2 names"):
        Table("sizes", ["model", "rows"], [["base", "1"], ["joint"]])
