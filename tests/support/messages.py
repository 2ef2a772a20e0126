"""What a command says on stderr beside its progress, of which a slow machine shows more lines than a fast one."""

from __future__ import annotations

import re

PROGRESS = re.compile(r"(?m)^ *(?:\d+ (?:h|min|s) ?)+  .*\n?")


def messages(stderr: str) -> str:
    """Return what was written to stderr without lines of progress."""
    return PROGRESS.sub("", stderr)
