"""A recording while it is made: a hidden folder beside the one that it becomes, in one move, at the end.

The folder is checked before the program starts. Who records holds a lock, so that two never record into one folder, and what a killed
recording left is cleared by the next.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from onnxprune.errors import DataError, OnnxPruneError, OutputError, UsageError
from onnxprune.model.files import cannot_write, kind_of, shown, status
from onnxprune.model.locks import lock
from onnxprune.model.places import check_folder
from onnxprune.recording.inside.reservoir import Limits
from onnxprune.recording.written import LISTING, Recording, write_recording

POOL, RESULT, REPLACED = "pool", "result", "replaced"
LOCK = "lock"


class Draft:
    """A recording that is being made into ``folder``; a context that leaves nothing but the recording.

    ``pool``: where recorders put what they take. Raises UsageError where the folder holds something else, or an earlier recording
    and not ``force``; OutputError where it cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str], limits: Limits, *, force: bool = False):
        _check_limits(limits)
        self.folder, self.limits, self._force = Path(folder), limits, force
        _check_target(self.folder, force)
        absolute = Path(os.path.abspath(self.folder))
        self._work = absolute.with_name(f".{absolute.name}.recording")
        self.pool = self._work / POOL
        try:
            self._work.mkdir(exist_ok=True)
            self._handle = os.open(self._work / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
            if not lock(self._handle):
                os.close(self._handle)
                raise UsageError(f"{shown(self.folder)} is being recorded into by another run; choose another folder")
            self._clear()
            self.pool.mkdir()
        except OSError as error:
            raise cannot_write(self.folder, error) from error

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        os.close(self._handle)
        shutil.rmtree(self._work, ignore_errors=True)

    def finish(self) -> Recording:
        """Move what was recorded to its folder, and return it; raises DataError where no session ran, OutputError."""
        result = self._work / RESULT
        try:
            result.mkdir()
            recording = write_recording(self.pool, result, self.limits)
            if not any(model.kept for model in recording.models):
                raise DataError(recording.nothing())
            _check_target(self.folder, self._force)  # as it is now
            with suppress(FileNotFoundError):
                os.rename(self.folder, self._work / REPLACED)
            os.rename(result, self.folder)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        return recording.moved(self.folder)

    def _clear(self) -> None:
        """Remove what a recording that was killed has left; bring back the recording that it was just about to replace."""
        replaced = self._work / REPLACED
        if replaced.is_dir() and not self.folder.exists():
            os.rename(replaced, self.folder)
        for name in (POOL, RESULT, REPLACED):
            shutil.rmtree(self._work / name, ignore_errors=True)


def _check_limits(limits: Limits) -> None:
    if limits.samples < 1 or limits.size < 1:
        raise UsageError(f"{limits.samples} samples in {limits.size} bytes: give at least one of each")


def _check_target(folder: Path, force: bool) -> None:
    """Raise UsageError or OutputError where a recording must not become this folder."""
    found = status(folder, OutputError)
    check_folder(folder.absolute())
    if found is None:
        return
    if kind_of(found) != "a folder":
        raise UsageError(f"{shown(folder)} exists and is no folder; choose another name")
    names = sorted(os.listdir(folder))
    own = _names_of_recording(folder)
    other = [name for name in names if name not in own]
    if other:
        raise UsageError(f"{shown(folder)} holds something else ({other[0]}); choose another folder")
    if names and not force:
        raise UsageError(f"{shown(folder)} holds an earlier recording; add --force to replace it")


def _names_of_recording(folder: Path) -> set[str]:
    """Return the names that a recording has in its folder; none where it holds no recording."""
    from onnxprune.model.read import read_text

    try:
        listed = json.loads(read_text(folder / LISTING))
        return {LISTING, *(str(model["folder"]) for model in listed["models"])}
    except (OnnxPruneError, OSError, ValueError, LookupError, TypeError):
        return set()
