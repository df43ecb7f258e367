"""Tables in plain text for reports: columns aligned, nothing around them, nothing wrapped."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[tuple[str, ...]], left: int | None = None) -> list[str]:
    """One line per row, two spaces between columns, none at the end of a line.

    Args:
        left: how many columns have their text at the left, the others (numbers) at the right; None: all.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    count = len(widths) if left is None else left
    return [
        "  ".join(
            cell.ljust(width) if at < count else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
