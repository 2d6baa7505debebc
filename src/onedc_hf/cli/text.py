"""Tables and figures for people."""

from collections.abc import Sequence

__all__ = ["count", "table"]


def count(number: int, noun: str) -> str:
    """Return `1 picture`, `2 pictures`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out text in columns; the first column is aligned to the left, the others, mostly figures, to the right."""
    lines = [list(headings), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
