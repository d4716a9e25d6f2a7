import gzip
from pathlib import Path

import pytest

from datamodules import read_lines
from modules.errors import UserError

SEPARATORS = "\u2028\u2029\u0085\x0b\x0c\x1c\x1d\x1e\r"
"""What ``str.splitlines`` takes for the end of a line, and a text file has inside of one."""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_line_ends_at_a_line_feed_only(tmp_path: Path, end: str, mark: str, compressed: bool) -> None:
    lines = ["first", *(f"a{separator}b" for separator in SEPARATORS), "", "last"]
    content = (mark + end.join(lines)).encode()
    path = tmp_path / ("x.txt.gz" if compressed else "x.txt")
    for written in (content, content + end.encode()):
        path.write_bytes(gzip.compress(written) if compressed else written)
        assert read_lines(path) == lines


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    (tmp_path / "x.txt").touch()
    assert read_lines(tmp_path / "x.txt") == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"good\nb\xe9d\n", r"x\.txt:2: not UTF-8 \(invalid continuation byte\); save the file as UTF-8"),
        ("x.txt", "text".encode("utf-16"), r"x\.txt:1: not UTF-8"),
        ("x.txt.gz", b"no archive", r"x\.txt\.gz: cannot be read \(BadGzipFile"),
        ("x.txt.gz", gzip.compress(b"text\n" * 999, mtime=0)[:20], r"x\.txt\.gz: cannot be read \(EOFError"),
        ("x.txt.gz", gzip.compress(b"text", mtime=0)[:10] + b"\xff" * 20, r"x\.txt\.gz: cannot be read \(error"),
        ("x.txt", None, r"there is no file .*x\.txt"),
    ],
)
def test_a_file_that_is_no_text(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_lines(tmp_path / name)
