"""What a model costs, as a function of how many units each group keeps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.coupling.groups import Analysis, Volume


class _Products:
    """A list of volumes evaluated together: every factor is ``fixed`` and, in some ``rows``, slopes times what groups keep.

    Factors of one volume stand side by side. The matrices that the analysis has ``added`` are nothing as long as they are whole.
    """

    def __init__(self, volumes: Sequence[Volume], added: Sequence[bool], widths: np.ndarray):
        factors = [(fixed, slope) for v in volumes for fixed, slope in zip(v.fixed, v.slopes, strict=True)]
        rows = [(row, g, n) for row, (_, slope) in enumerate(factors) for g, n in slope.items()]
        row, self._groups, self._slopes = np.array(rows, np.int64).reshape(-1, 3).T
        self._fixed = np.array([fixed for fixed, _ in factors], np.int64)
        self._rows, self._places = np.unique(row, return_index=True)
        self._starts = np.cumsum([0, *(len(v.fixed) for v in volumes)])[:-1]
        own = [place for place, is_added in enumerate(added) if is_added]
        self._added, self._whole = np.array(own, np.int64), np.array([volumes[n].at(widths) for n in own], np.int64)

    def at(self, kept: np.ndarray) -> np.ndarray:
        """Return int64[volumes] for ``kept`` int64[groups], int64[volumes, n] for int64[groups, n]."""
        fixed = self._fixed.reshape(-1, *[1] * (kept.ndim - 1))
        widths = np.repeat(fixed, kept.shape[1], 1) if kept.ndim > 1 else fixed.copy()
        if len(self._rows):
            slopes = self._slopes.reshape(-1, *[1] * (kept.ndim - 1))
            widths[self._rows] += np.add.reduceat(slopes * kept[self._groups], self._places, axis=0)
        found = np.multiply.reduceat(widths, self._starts, axis=0) if len(self._starts) else widths
        if len(self._added):
            own, whole = found[self._added], self._whole.reshape(-1, *[1] * (kept.ndim - 1))
            found[self._added] = np.where(own == whole, 0, own)
        return found


class Costs:
    """Totals of a model: parameters, macs, weight_bytes, bytes (of the file), channels."""

    def __init__(self, analysis: Analysis):
        facts = analysis.facts
        self.widths = analysis.widths
        added = {one.matrix for one in facts.model.widened}
        read = [v.node is not None and not added.isdisjoint(v.node.inputs) for v in analysis.macs]
        self._parameters = _Products(analysis.parameters, [v.name in added for v in analysis.parameters], self.widths)
        self._macs = _Products(analysis.macs, read, self.widths)
        stored = [v.itemsize if v.name in facts.graph.tensors else 0.0 for v in analysis.parameters]
        self._itemsizes = np.array(stored)
        self._multiplicity = np.array([group.multiplicity for group in analysis.groups], np.int64)
        self._overhead = facts.model.size - float(self.weight_bytes(self.widths))
        self._totals = {
            "parameters": self.parameters,
            "macs": self.macs,
            "weight_bytes": self.weight_bytes,
            "bytes": self.bytes,
            "channels": self.channels,
        }
        self._times = analysis.times
        self._barred = list(analysis.barred)

    def parameters(self, kept: np.ndarray) -> np.ndarray:
        """Return the number of weights for ``kept``: int64[groups], or int64[groups, n] for n variants at once."""
        return self._parameters.at(kept).sum(axis=0)

    def macs(self, kept: np.ndarray) -> np.ndarray:
        """Return the multiply-accumulate operations of one run on the sizes the model was analysed with."""
        return self._macs.at(kept).sum(axis=0)

    def weight_bytes(self, kept: np.ndarray) -> np.ndarray:
        """Return the bytes of all stored weights."""
        return self._itemsizes @ self._parameters.at(kept)

    def bytes(self, kept: np.ndarray) -> np.ndarray:
        """Return the size of the file: its stored weights and everything else as it is."""
        return self.weight_bytes(kept) + self._overhead

    def channels(self, kept: np.ndarray) -> np.ndarray:
        """Return the positions of all groups on their writing axes."""
        return self._multiplicity @ kept

    def latency(self, kept: np.ndarray) -> np.ndarray:
        """Return the microseconds of one run by the measured table; needs an analysis with times."""
        return self._times.at(kept, self.channels(kept) / max(int(self.channels(self.widths)), 1))

    def total(self, kind: str, kept: np.ndarray) -> np.ndarray:
        """Return one of the totals, or the latency, by name."""
        return self.latency(kept) if kind == "latency" else self._totals[kind](kept)

    def totals(self, kept: np.ndarray) -> dict[str, int]:
        """Return all totals for ``kept``: int64[groups]."""
        return {
            kind: round(float(total(kept))) if kind.endswith("bytes") else int(total(kept))
            for kind, total in self._totals.items()
        }

    def prunable(self) -> dict[str, float]:
        """Return the share of parameters and of MACs that goes if every group goes that may."""
        nothing = np.zeros_like(self.widths)
        nothing[self._barred] = self.widths[self._barred]
        shares = {}
        for kind in ("parameters", "macs"):
            whole = int(self.total(kind, self.widths))
            shares[kind] = 1 - int(self.total(kind, nothing)) / whole if whole else 0.0
        return shares
