"""How much each branch matters: by its weights alone, or by what the outputs say when it is silenced."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from onnxprune.changes.branches.proof import switched
from onnxprune.coupling.blocks import Block, Flow
from onnxprune.data import Dataset
from onnxprune.data.observe import Batch, Sums, observe
from onnxprune.errors import DataError
from onnxprune.means import Means
from onnxprune.measure.kinds import outputs_like
from onnxprune.measure.outputs import Outputs
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Names, give_out
from onnxprune.model.read import FLOATS
from onnxprune.model.runtime import session

MOST_HELD = 1 << 26
"""Bytes of what the whole model says that are kept: every set of silent branches is compared with it."""


class Effects(NamedTuple):
    """float64[blocks] each: divergence of the outputs without the branch b, and its share E b^2 / E (a + b)^2 of the sum."""

    divergence: np.ndarray
    energy: np.ndarray


def weight_gains(facts: Facts, blocks: Sequence[Block]) -> np.ndarray:
    """Return float64[blocks]: the mean of |W|_F / sqrt(longest axis of W) over a branch's stored matrices and kernels.

    For a square matrix or a depthwise kernel that is the gain of a random input's standard deviation. It knows neither
    what the branch is fed nor what follows, so it is crude: calibration data judges better. Raises DataError for a
    branch without matrices.
    """
    return np.array([_gain(facts, block) for block in blocks], np.float64)


def _gain(facts: Facts, block: Block) -> float:
    names = dict.fromkeys(name for node in block.nodes for name in node.inputs if name and facts.is_parameter(name))
    gains = [_norm(facts.content(name)) for name in names if facts.dtype(name) in FLOATS and _is_matrix(facts, name)]
    if not gains:
        raise DataError(f"the branch {block.name!r} has no stored float matrix to judge it by; give data (--calib)")
    return float(np.mean(gains))


def _is_matrix(facts: Facts, name: str) -> bool:
    shape = facts.shape(name) or ()
    return len(shape) >= 2 and max(shape) > 1


def _norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array.astype(np.float64)) / np.sqrt(max(array.shape)))


class Silencing:
    """The model with every branch switchable, run on all of ``dataset``; ``how``: its outputs are compared."""

    def __init__(
        self,
        facts: Facts,
        flow: Flow,
        blocks: Sequence[Block],
        dataset: Dataset,
        means: Means = Means(),
        how: Outputs | None = None,
    ):
        proto, switches = switched(facts, flow, blocks)
        for name, dtype in switches:
            proto.graph.input.append(helper.make_tensor_value_info(name, dtype, []))
        names = Names(proto.graph)
        self._energies = [
            (_energy(proto, names, block.branch), _energy(proto, names, block.sum.outputs[0])) for block in blocks
        ]
        self._number = {block: number for number, block in enumerate(blocks)}
        self._types = [(name, helper.tensor_dtype_to_np_dtype(dtype)) for name, dtype in switches]
        self._how, self._dataset, self._means = how, dataset, means
        self._outputs = [*facts.graph.outputs, *(how.inner if how else ())]
        self._held, self._room = dict[int, dict[str, np.ndarray]](), MOST_HELD
        give_out(proto, self._outputs)
        self._session = session(facts.model.derived(proto), threads=means.threads)

    def effects(self) -> Effects:
        """Return what silencing each branch alone does: one run of the model per branch and batch."""
        return self._over([{number} for number in range(len(self._types))])

    def together(self, removed: Sequence[Block]) -> float:
        """Return the divergence of the outputs without several branches."""
        return float(self._over([{self._number[block] for block in removed}]).divergence[0])

    def _over(self, silences: Sequence[Collection[int]]) -> Effects:
        """Return the divergence of each set of silent branches, and the energy of every branch."""
        (sums,) = observe(partial(self._seen, silences), self._dataset, [Sums()], self._means)
        rows, squares, diverged = sums.totals
        return Effects(diverged / max(rows, 1), squares[0] / np.maximum(squares[1], 1e-30))

    def _seen(self, silences: Sequence[Collection[int]], batch: Batch) -> tuple[int, np.ndarray, np.ndarray]:
        """Return rows, float64[2, blocks] of energies, and float64[silences], divergences times rows."""
        inputs = batch.inputs
        whole = self._whole(batch)
        size = len(next(iter(inputs.values())))
        expected = {name: whole[name] for name in self._outputs}
        squares = np.array([[float(whole[name]) for name in pair] for pair in self._energies]).T
        found = (self._session.run(inputs | self._factors(silent), self._outputs) for silent in silences)
        return size, squares, np.array([size * self._distance(expected, there, inputs) for there in found])

    def _whole(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return what the model says with all of its branches, outputs and energies: of the first batches it is kept."""
        if batch.first in self._held:
            return self._held[batch.first]
        wanted = dict.fromkeys([*self._outputs, *chain.from_iterable(self._energies)])
        found = self._session.run(batch.inputs | self._factors(()), list(wanted))
        self._room -= sum(array.nbytes for array in found.values())
        if self._room >= 0:
            self._held[batch.first] = found
        return found

    def _distance(
        self, expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]
    ) -> float:
        how = self._how or outputs_like([expected])
        return how.distance(how.errors(expected, found, inputs))

    def _factors(self, silent: Collection[int]) -> dict[str, np.ndarray]:
        return {name: np.full((), number not in silent, kind) for number, (name, kind) in enumerate(self._types)}


def _energy(proto: ModelProto, names: Names, value: str) -> str:
    """Append an output that is the sum of a value's squares, in float32."""
    wide, name = (names.fresh(f"{value}_{part}") for part in ("wide", "energy"))
    proto.graph.node.append(helper.make_node("Cast", [value], [wide], to=TensorProto.FLOAT))
    proto.graph.node.append(helper.make_node("ReduceSumSquare", [wide], [name], keepdims=0))
    proto.graph.output.append(ValueInfoProto(name=name))
    return name
