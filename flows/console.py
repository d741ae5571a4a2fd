"""How the command line prints: a line, a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
COLOURS = {"promote": "green", "pass": "green", "reject": "red", "fail": "red"}


def say(text: str) -> None:
    """One line, not wrapped: paths stay whole."""
    console.print(text, soft_wrap=True)


def table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """A table whose columns are the rows' keys."""
    if not rows:
        return
    grid = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for key, value in rows[0].items():
        grid.add_column(key, justify="right" if isinstance(value, int | float) else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(escape(str(value)) for value in row.values()))
    console.print(grid)
