"""The stages of a run: how long each takes, and who is told that it begins."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy

from onnxprune.model.runtime import release_memory
from onnxprune.model.threads import one_blas_thread
from onnxprune.progress import Listener, Progress, Share, heard
from onnxprune.report.course import Course


class Stages:
    """Times the stages of a run, on one BLAS thread; tells ``listener`` which one begins, and how far the ``course`` of the run has come.

    ``progress`` is what a stage tells what it does, and what share of it is done.
    """

    def __init__(self, listener: Progress | Listener | None = None):
        self.seconds: dict[str, float] = {}
        self.course = Course()
        outer, course = heard(listener), self.course

        def show(text: str, share: Share) -> None:
            course.count(share)
            outer.at(text, course.share)

        self.progress = Progress(show, told=outer.tell if outer.told else None)

    def part(self, number: int, of: int, prefix: str = "") -> Stages:
        """Return the stages of one of several parts of the present stage, counted from 0."""
        found = copy(self)
        found.progress = self.progress.part(number, of, prefix)
        return found

    def named(self, prefix: str) -> Stages:
        """Return the same stages, which say of what they are a part."""
        return self.part(0, 1, prefix)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.course.begin(name)
        self.progress(name)
        start = time.perf_counter()
        try:
            with one_blas_thread:
                yield
        finally:
            release_memory()
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 4)
            self.course.end()
