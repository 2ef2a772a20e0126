"""Real inputs of a program's ONNX Runtime sessions, saved as calibration data: nobody writes the preprocessing again.

``inside`` runs in the program; ``draft`` keeps the folder that is being recorded into; ``program`` starts what is to be recorded;
``written`` makes of a pool of samples what ``--calib`` reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from onnxprune.recording.draft import Draft
from onnxprune.recording.inside.recorder import Recorder
from onnxprune.recording.inside.reservoir import Limits
from onnxprune.recording.inside.taps import attach, detach
from onnxprune.recording.program import run_program
from onnxprune.recording.written import Recording

SAMPLES, SIZE = 512, 1 << 30
"""What is kept of one model unless something else is said: samples, bytes."""


@contextmanager
def recorded(folder: str | os.PathLike[str], limits: Limits, *, force: bool = False) -> Iterator[list[Recording]]:
    """Record the sessions of this process, and yield a list that holds the recording at the end.

    What was recorded is written where the block raises, too. Raises UsageError, OutputError, and DataError where no session ran.
    """
    with Draft(folder, limits, force=force) as draft:
        recorder, found = Recorder(str(draft.pool), limits), list[Recording]()
        attach(recorder)
        try:
            yield found
        except BaseException:
            detach(recorder)
            if _holds_samples(draft):
                found.append(draft.finish())
            raise
        detach(recorder)
        found.append(draft.finish())


def _holds_samples(draft: Draft) -> bool:
    return any(draft.pool.glob("*/*.sample"))


def run_recorded(
    command: Sequence[str], folder: str | os.PathLike[str], limits: Limits, *, force: bool = False
) -> tuple[int, Recording | None]:
    """Run a program, record its sessions, and return its exit code with the recording; None where it failed and ran no session.

    Raises UsageError, OutputError, and DataError where it ended well without a session.
    """
    with Draft(folder, limits, force=force) as draft:
        code = run_program(command, draft)
        if code and not _holds_samples(draft):
            return code, None
        return code, draft.finish()
