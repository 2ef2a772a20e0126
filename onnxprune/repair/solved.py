"""What became of one node of a repair, as a journal keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.evidence.journal import Header, Journal


@dataclass(frozen=True)
class SolvedNode:
    """What became of one node: ``arrays``: stored tensors that changed, ``chosen``: group -> bool[width], see ``Sequential``.

    ``unmatched``: samples that were left out there.
    """

    arrays: Mapping[str, np.ndarray]
    chosen: Mapping[int, np.ndarray]
    unmatched: int = 0

    @classmethod
    def found(cls, journal: Journal, number: int, stored: Mapping[str, np.ndarray]) -> SolvedNode | None:
        """Return what became of node ``number``; None where that is not there. ``stored``: tensors of the types and shapes to come."""

        def read(header: Header, arrays: Mapping[str, np.ndarray]) -> SolvedNode:
            changed = {
                name: arrays[f"a{place}"].view(stored[name].dtype).reshape(stored[name].shape)
                for place, name in enumerate(header["names"])
            }
            chosen = {int(group): arrays[f"g{group}"].astype(bool) for group in header["groups"]}
            return cls(changed, chosen, int(header["unmatched"]))

        return journal.find(number, read)

    def keep(self, journal: Journal, number: int) -> None:
        """Write what became of node ``number``; raises OutputError."""
        header = {"names": list(self.arrays), "groups": list(self.chosen), "unmatched": self.unmatched}
        arrays = {f"a{place}": as_bytes(array) for place, array in enumerate(self.arrays.values())}
        journal.keep(number, header, arrays | {f"g{group}": mask for group, mask in self.chosen.items()})


def as_bytes(array: np.ndarray) -> np.ndarray:
    """Return uint8[bytes]: element types that numpy does not have are kept as they are."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
