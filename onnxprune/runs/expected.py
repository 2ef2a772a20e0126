"""How long a run is expected to take, in a sentence: from one pass of the model that is measured, times what the run will do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter, thread_time

from onnxprune.changes.context import Context
from onnxprune.data.dataset import Feed
from onnxprune.model.runtime import Session, session
from onnxprune.model.segmented import runs_in_segments
from onnxprune.report.course import Stretch

ROWS = 32
"""Rows of the pass that is measured, at most."""
PASSES = 4
"""Of which the fastest counts: the first lays out memory, and others may wait for other programs."""
COARSE = "half to twice as much is usual, more on a busy machine"
"""What the figures of docs/cli.md say of the sentence."""


def measured_pace(context: Context) -> float | None:
    """Return the seconds that the model takes for a row of the calibration data, of one thread those of its own clock; None without data, and where it runs by segments."""
    data = context.data.calibration
    if data is None or runs_in_segments(context.original):
        return None
    batch = next(iter(data.batches(ROWS)))
    model = session(context.original, threads=context.settings.threads)
    clock = thread_time if context.settings.threads == 1 else perf_counter
    return min(_seconds_of(model, batch, clock) for _ in range(PASSES)) / max(len(batch.rows), 1)


def _seconds_of(model: Session, batch: Feed, clock: Callable[[], float]) -> float:
    begun = clock()
    model.run(batch)
    return clock() - begun


def in_words(seconds: float) -> str:
    """Return ``8 s``, ``75 s`` or ``12 min``, no finer than is known."""
    if seconds >= 150:
        return f"{seconds / 60:.0f} min"
    step = 1 if seconds < 10 else 5
    return f"{max(round(seconds / step) * step, 1)} s"


def expected_sentence(stages: Mapping[str, Stretch], pace: float | None, spent: float) -> str:
    """Say how long a run may take in which ``spent`` seconds are over, the longest of its stages, and how far that is to be believed."""
    seconds = {name: stretch.seconds for name, stretch in stages.items()}
    longest = max(seconds, key=lambda name: seconds[name])
    how = "as its size says" if pace is None else f"at {1000 * pace:.2g} ms a row, which was measured"
    return f"expected: about {in_words(spent + sum(seconds.values()))}, {how}; {COARSE} ({longest}: {in_words(seconds[longest])})"
