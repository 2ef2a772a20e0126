"""What a value says of itself where it is looked at: a sentence or two and tables, as plain text or as HTML, a screen at most."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import islice
from textwrap import wrap
from typing import NamedTuple

LINES, WIDTH, CELL, LONGEST = 24, 100, 44, 400
"""A screen: lines and columns of text; what is left of a long cell, and of a long sentence."""
STYLE = "text-align:left;padding:0.1em 0.8em"


class SheetTable(NamedTuple):
    """Rows of text under a head; ``more``: how many rows were left out before."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    more: int = 0


class Sheet(NamedTuple):
    """``lines``: what is said in words, the first the shortest; ``grids``: the tables below it."""

    lines: tuple[str, ...]
    grids: tuple[SheetTable, ...] = ()

    def text(self) -> str:
        """Return all of it as text of one screen; what does not fit is counted."""
        lines = [part for line in self.lines for part in wrap(_short(line, LONGEST), WIDTH, subsequent_indent="  ")]
        for grid in self.grids:
            room = LINES - len(lines) - 3
            if room < 1:
                break
            rows = [[_short(cell) for cell in row] for row in grid.rows[:room]]
            more = len(grid.rows) - len(rows) + grid.more
            lines += [f"{grid.title}:", *_columns([list(grid.head), *rows])]
            lines += [f"... and {more:,} more"] if more else []
        return "\n".join(islice(lines, LINES))

    def html(self) -> str:
        """Return all of it as HTML for a notebook: every text escaped, no style sheet, no script."""
        parts = [f"<p>{'<br>'.join(map(escape, self.lines))}</p>"]
        for grid in self.grids:
            rows = grid.rows[:LINES]
            more = len(grid.rows) - len(rows) + grid.more
            parts.append(
                f"<table><caption style='{STYLE}'>{escape(grid.title)}</caption><thead>{_row('th', grid.head)}</thead>"
            )
            parts.append(f"<tbody>{''.join(_row('td', row) for row in rows)}</tbody></table>")
            parts += [f"<p>... and {more:,} more</p>"] if more else []
        return f"<div style='overflow-x:auto'>{''.join(parts)}</div>"


class SeenAsSheet:
    """Shows its ``sheet`` where it is looked at, in an interpreter as in a notebook; a data class needs ``repr=False`` beside it."""

    @property
    def sheet(self) -> Sheet:
        """What is said of it."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.sheet.text()

    def _repr_html_(self) -> str:
        return self.sheet.html()


def _short(text: str, longest: int = CELL) -> str:
    """Return a text on one line, its middle left out where it is too long."""
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    half = (longest - 1) // 2
    return plain if len(plain) <= longest else f"{plain[:half]}…{plain[-half:]}"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines with aligned columns, numbers to the right."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    right = [all(row[at][:1] in "-+0123456789" for row in rows[1:]) for at in range(len(rows[0]))]
    lines = (
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True))
        for row in rows
    )
    return [f"  {line}".rstrip()[:WIDTH] for line in lines]


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag} style='{STYLE}'>{escape(_short(cell, WIDTH))}</{tag}>" for cell in cells) + "</tr>"
