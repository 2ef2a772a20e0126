"""The data of a model that may come to be written, brought to a file beside other work, so that little is left to do in the end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import NamedTuple

from onnxprune.errors import OutputError
from onnxprune.model.files import Pending, require_space
from onnxprune.model.model import Model
from onnxprune.model.regions import Region, end_of, externalised, fill_data, needs_external


class MadeData(NamedTuple):
    """A data file that nobody sees yet, and the SHA-256 of its content."""

    data: Pending
    digest: str


class EarlyData:
    """Writes data for ``path`` (None: never) as soon as somebody says what may stand there; what is begun later takes its place.

    The file has no name until ``model.write.save`` gives it one. A context that leaves nothing.
    """

    def __init__(self, path: Path | None):
        self._path = path
        self._making: _Making | None = None

    def __enter__(self) -> EarlyData:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None) -> None:
        self._leave()

    def begin(self, model: Model) -> None:
        """Begin with the data of a model, if it is to have a file for it; that there is no room is left to say to ``save``."""
        self._leave()
        if self._path is None or not needs_external(model):
            return
        regions = externalised(model)[1]
        with suppress(OutputError, OSError):
            require_space(self._path, end_of(regions))
            self._making = _Making(Pending(self._path), regions)

    def settle(self) -> None:
        """Wait until what was begun is written, so that it is no work beside what is timed; ``taken`` raises what went wrong."""
        if self._making is not None:
            wait([self._making.whole])

    def taken(self, regions: list[Region]) -> MadeData | None:
        """Hand out the file where it holds these tensors in these places, when it is whole; raises what went wrong in between."""
        making = self._making
        if making is None or not making.holds(regions):
            self._leave()
            return None
        digest = making.whole.result()
        self._making = None
        making.worker.shutdown()
        return MadeData(making.data, digest)

    def _leave(self) -> None:
        making, self._making = self._making, None
        if making is not None:
            making.leave()


NO_EARLY_DATA = EarlyData(None)


class _Making:
    """A file that is being filled with tensors."""

    def __init__(self, data: Pending, regions: list[Region]):
        self.data, self._regions, self._left = data, regions, Event()
        self.worker = ThreadPoolExecutor(1)
        self.whole = self.worker.submit(fill_data, data, regions, lambda: not self._left.is_set())

    def holds(self, regions: list[Region]) -> bool:
        mine = [(id(region.tensor), region.start) for region in self._regions]
        return mine == [(id(region.tensor), region.start) for region in regions]

    def leave(self) -> None:
        self._left.set()
        self.worker.shutdown()
        with suppress(OSError), self.data:
            pass  # it was never named
