"""Tables in Markdown."""

from collections.abc import Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = True) -> str:
    """A Markdown table whose columns line up.

    Args:
        header: one name a column.
        rows: cells.
        numbers: right-align all columns but the first.
    """
    right = [numbers and i > 0 for i in range(len(header))]
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = f"|{'|'.join('-' * (w + 1) + (':' if r else '-') for w, r in zip(widths, right, strict=True))}|"
    return "\n".join([line(header), rule, *map(line, rows)])
