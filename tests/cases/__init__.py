"""Tables of small networks with what must be found in them, each module a list ``ROWS``.

``OPERATORS``: one module per module of ``onnxprune/coupling/rules``; ``GRADIENTS`` (``cases/grad``): one per module of
``onnxprune/grad/rules``; ``PATTERNS`` (``cases/patterns``): one per topic. A new module is found by being there.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from support.gradients import Case
from support.patterns import Pattern
from support.rows import Row


def collected(folder: str = "") -> dict[str, list[Any]]:
    """Return module -> its rows, for all modules of a folder of this package."""
    names = sorted(path.stem for path in (Path(__file__).parent / folder).glob("[!_]*.py"))
    return {name: import_module(".".join([__name__, *folder.split(), name])).ROWS for name in names}


OPERATORS: dict[str, list[Row]] = collected()
GRADIENTS: dict[str, list[Case]] = collected("grad")
PATTERNS: list[Pattern] = [pattern for rows in collected("patterns").values() for pattern in rows]
