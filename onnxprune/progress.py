"""Who is told what begins, and how much of it is done by now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

Share = Callable[[], float]
"""Returns what share of something is done by now, in [0, 1]."""
Listener = Callable[[str], None]
"""Is told in words what begins."""
STAGES = {
    "load": "reading the model",
    "analyze": "finding what can be cut",
    "evidence": "watching the model on data",
    "allocate": "scoring and choosing",
    "redundancy": "looking for units that carry nothing",
    "timing": "measuring how long nodes take",
    "shares": "sharing out what is saved",
    "cut": "cutting",
    "check": "proving the cut exact",
    "repair": "repairing",
    "recover": "recovering",
    "drift": "comparing outputs",
    "outputs": "looking at the outputs",
    "layers": "comparing inner tensors",
    "sensitivity": "changing parts alone",
    "latency": "measuring latency",
    "memory": "measuring memory",
    "save": "writing",
}


@dataclass(frozen=True)
class Progress:
    """Is told what begins, and where something is counted, how much of it is done; ``part`` is the progress of one of several.

    ``show`` gets the words, and the share of the whole that is done by then; ``told`` gets what is to stay, None: nobody asked for it.
    """

    show: Callable[[str, Share], None]
    start: float = 0.0
    width: float = 1.0
    prefix: str = ""
    told: Listener | None = None

    def __call__(self, text: str, done: float = 0, total: float = 0) -> None:
        """Tell what begins, when ``done`` of ``total`` have been done (0: nothing is counted)."""
        share = min(max(done / total, 0.0), 1.0) if total > 0 else 0.0
        self.at(text, lambda: share)

    def at(self, text: str, share: Share) -> None:
        """Tell what begins, with a function that is asked again and again how much is done."""
        start, width = self.start, self.width
        self.show(self.prefix + text, lambda: start + width * share())

    def tell(self, text: str) -> None:
        """Tell what is to be read when all is over, too."""
        if self.told is not None:
            self.told(self.prefix + text)

    def part(self, number: int, of: int, prefix: str = "") -> Progress:
        """Return the progress of one of several parts, counted from 0, of which each takes as long."""
        width = self.width / max(of, 1)
        return replace(self, start=self.start + width * number, width=width, prefix=self.prefix + prefix)


def _nobody(text: str, share: Share) -> None:
    """Tell nobody."""


silent = Progress(_nobody)


def heard(listener: Progress | Listener | None) -> Progress:
    """Return a progress that tells a function, which takes words alone; None: nobody."""
    if listener is None or isinstance(listener, Progress):
        return listener or silent
    tell = listener
    return Progress(lambda text, share: tell(text))


def words(text: str) -> str:
    """Return a text with the name of a stage, whatever stands before it, in words."""
    before, colon, stage = text.rpartition(": ")
    return before + colon + STAGES.get(stage, stage)
