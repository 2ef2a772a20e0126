"""The one way by which text that others chose (names of nodes, tensors and files) reaches a console, a log or a document."""

from __future__ import annotations

import json
import re

COMMANDS = re.compile(r"#(?=#(?:\[|[A-Za-z]+\[))")
"""Azure Pipelines, TeamCity and GitHub's old form run ``##[...]``, ``##vso[...]``, ``##teamcity[...]`` anywhere in a line."""
LEADING = re.compile(r"(?m)^((?:[^\S\n]|\x1b\[[\d;]*m)*):(?=:)")
"""GitHub runs ``::name::`` at the start of a line, whatever blanks come before it."""


def visible(text: str) -> str:
    r"""Return text on one line that shows what cannot be printed as escapes: ``\x1b``, ``\n``, ``\u202e``, ``\udcff``.

    Escaped are controls (C0, C1), separators of lines, formats (bidi overrides), halves of surrogate pairs, whatever has no
    glyph, and what continuous integration would take for a command.
    """
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return harmless_lines(COMMANDS.sub(r"\\x23", plain))


def harmless_lines(lines: str) -> str:
    r"""Return lines of which none starts with ``::``: it becomes ``\x3a:``."""
    return LEADING.sub(r"\1\\x3a", lines)


def visible_json(text: str) -> str:
    """Return a JSON document that means the same, its unprintable characters and CI commands written as JSON's own escapes."""
    plain = "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
    return COMMANDS.sub(r"\\u0023", plain)
