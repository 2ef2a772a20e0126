"""The stages of a run: how long each takes, and who is told that it begins."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from onnxprune.means import Progress, silent
from onnxprune.model.runtime import release_memory
from onnxprune.model.threads import one_blas_thread


@dataclass
class Stages:
    """Times the stages of a run, on one BLAS thread, and tells ``progress`` which one begins."""

    progress: Progress = silent
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.progress(name)
        start = time.perf_counter()
        try:
            with one_blas_thread:
                yield
        finally:
            release_memory()
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 4)
