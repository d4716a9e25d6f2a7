"""The HTML report: one file that needs nothing else, safe whatever is in it, and what it does in a browser."""

import base64
import csv
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lightning_app.report.html_report import html_report
from lightning_app.report.pictures import Picture
from lightning_app.report.section import Section, markdown_report
from lightning_app.report.table import Table
from tests import study_examples as examples
from tests.chromium import Chromium

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


COUNTS = Table("Counts", ["data set", "rows", "why"], [["b", "1,200", ""], ["a 10", "34 of 60", "z"], ["a 9", "", "y"]])

WIDE = Table(
    "Wide", ["model", *(f"Banking{i}Classification" for i in range(12))], [["joint 3:1 total", *["80.25"] * 12]]
)


@pytest.fixture(scope="module")
def sections(pictures: list[Picture]) -> list[Section]:
    return [
        Section("Verdict", ["Take <this>."], 'load("runs/a-folder-with-a-very-long-name/position-0a1d540af951/model")'),
        Section("Scores", tables=[MAIN]),
        Section("Why <merge>", tables=[Table("small", ["of_Banking77Classification"], [["1"]])], pictures=pictures),
    ]


@pytest.fixture(scope="module")
def page(sections: list[Section]) -> Page:
    return Page(html_report("Study of <runs/a>", sections))


@pytest.fixture(scope="module")
def file(sections: list[Section], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "report.html"
    more = Section("More", tables=[COUNTS, WIDE])
    file.write_text(html_report("Study of <runs/a>", [*sections, more]), encoding="utf-8")
    return file


def test_nothing_is_fetched_and_only_its_own_script_runs(page: Page, pictures: list[Picture]) -> None:
    assert {tag for tag, _ in page.tags}.isdisjoint({"link", "iframe", "object", "base", "form"})
    style = " ".join(page.texts_of("style"))
    assert "url(" not in style and "@import" not in style
    [script] = page.texts_of("script")
    [policy] = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:; ")
    for text in (style, script):
        assert f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'" in policy
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
    for text, picture in zip(page.texts_of("pre")[1:], pictures, strict=True):
        assert list(csv.reader(text.splitlines())) == list(csv.reader(picture.csv().splitlines()))


def test_tables_come_first_and_text_is_escaped(page: Page) -> None:
    order = [tag for tag, _ in page.tags if tag in ("section", "table", "img")]
    assert order == ["section", "section", "table", "section", "table", "img", "img"]
    assert page.texts_of("h1") == page.texts_of("title") == ["Study of <runs/a>"]
    assert page.texts_of("h2") == ["Verdict", "Scores", "Why <merge>"]
    assert page.texts_of("p")[0] == "Take <this>."
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


def test_the_same_report_in_markdown(sections: list[Section]) -> None:
    lines = markdown_report("Study of <runs/a>", sections).splitlines()
    assert [line for line in lines if line.startswith("#")] == [
        "# Study of <runs/a>", "## Verdict", "## Scores", "## Why <merge>",
    ]  # fmt: skip
    assert '    load("runs/a-folder-with-a-very-long-name/position-0a1d540af951/model")' in lines
    assert "![Task conflict: each task's own expert and the joint model](pictures/task_conflict.png)" in lines


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_has_nothing_to_say_and_nothing_to_fetch(
    browser: Chromium, file: Path, width: int, dark: bool
) -> None:
    browser.open(file, width, dark=dark)
    assert browser.complaints == browser.requests == []
    assert browser.evaluate("document.documentElement.scrollWidth") == width, "the page itself does not scroll"
    assert browser.evaluate(CUT_OFF) == []
    colours = "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    text, ground = (sum(map(int, c[4:-1].split(","))) for c in browser.evaluate(colours))
    assert (text > ground) == dark


CUT_OFF = """[...document.querySelectorAll("h1, h2, h3, p, li, th, td, summary, pre, img")].filter((element) => {
  const box = element.getBoundingClientRect(), scrolls = element.closest(".scroll, pre");
  return !scrolls && (box.left < 0 || box.right > innerWidth || element.scrollWidth > element.clientWidth + 1)
    && getComputedStyle(element).display !== "inline";
}).map((element) => element.outerHTML)"""
"""Whatever is wider than the window, and in no box that scrolls by itself."""


def column(browser: Chromium, caption: str, number: int) -> list[str]:
    cells = f'document.querySelectorAll("[aria-label={caption}] tbody tr > :nth-child({number})")'
    found: list[str] = browser.evaluate(f"[...{cells}].map((cell) => cell.textContent)")
    return found


def sort(browser: Chromium, caption: str, number: int) -> list[str]:
    """The first column after a click on a header."""
    browser.evaluate(f'document.querySelector("[aria-label={caption}] th:nth-child({number}) button").click()')
    return column(browser, caption, 1)


def test_tables_are_sorted_by_number_or_name(browser: Chromium, file: Path) -> None:
    browser.open(file)
    assert sort(browser, "Counts", 2) == ["b", "a 10", "a 9"], "the highest number first, an empty cell last"
    assert sort(browser, "Counts", 2) == ["a 10", "b", "a 9"]
    assert sort(browser, "Counts", 2) == ["b", "a 10", "a 9"], "as it was"
    assert sort(browser, "Counts", 1) == ["a 9", "a 10", "b"]
    assert sort(browser, "Counts", 3) == ["a 10", "a 9", "b"], "a text after the other"
    states = "[...document.querySelectorAll('[aria-label=Counts] th[scope=col]')].map((cell) => cell.ariaSort)"
    assert browser.evaluate(states) == ["none", "none", "descending"]


def test_the_keyboard_sorts_and_enlarges(browser: Chromium, file: Path) -> None:
    browser.open(file)
    browser.evaluate('document.querySelector("[aria-label=Counts]").focus()')
    browser.press("Tab")
    browser.press("Enter")
    assert column(browser, "Counts", 1) == ["a 9", "a 10", "b"]
    shown = "document.querySelector('dialog').open && document.querySelector('dialog img').naturalWidth"
    assert not browser.evaluate(shown)
    browser.evaluate('document.querySelector(".picture button").focus()')
    browser.press("Enter")
    assert browser.evaluate(shown) == 1400
    browser.press("Escape")
    assert not browser.evaluate(shown)
    assert browser.complaints == []
