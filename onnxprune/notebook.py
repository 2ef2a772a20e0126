"""Progress where nobody passed one: in a notebook a bar, elsewhere nothing. Needs nothing but the notebook's own IPython."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from time import monotonic
from typing import Any

from onnxprune.progress import Progress, Share, words

PAUSE = 0.25  # seconds between two drawings at least


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


@contextmanager
def notebook_bar(clock: Callable[[], float] = monotonic) -> Iterator[Progress]:
    """Yield a progress that is drawn as one bar below the cell, and taken away at the end."""
    from IPython.display import HTML, display

    place, drawn = display(HTML(_bar("starting", 0.0)), display_id=True), [clock()]

    def show(text: str, share: Share) -> None:
        if clock() - drawn[0] >= PAUSE:
            drawn[0] = clock()
            place.update(HTML(_bar(words(text), min(max(share(), 0.0), 1.0))))

    try:
        yield Progress(show)
    finally:
        place.update(HTML(""))


def _bar(text: str, share: float) -> str:
    said = escape(text)
    return f"<progress max='1' value='{share:.3f}' aria-label='{said}'></progress> {share:.0%} {said}"


def watched_options(options: dict[str, Any]) -> bool:
    """Whether a call that was given these options is to draw a bar: it is in a notebook, and nobody else watches."""
    return options.get("progress") is None and in_notebook()
