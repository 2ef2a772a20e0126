"""Cross-layer equalisation: channels between layers are scaled so that one grid fits all of them; the float model computes what it did.

Where everything between the nodes that write a channel and those that read it is positively homogeneous, ``f(x / s) = f(x) / s``, the
writing weights and biases are divided by ``s`` and the reading ones multiplied. Nagel et al. 2019, "Data-Free Quantization Through
Weight Equalization and Bias Correction", section 4.1, on groups of the coupling instead of pairs of layers: a residual stream is scaled
as one. Scales are powers of two, so that no number is rounded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from onnxprune.coupling.groups import Analysis, Group, groups_on
from onnxprune.coupling.readers import axes_with, once
from onnxprune.coupling.spec import Spec
from onnxprune.criteria.consumers import mean_by_unit
from onnxprune.data.dataset import Dataset
from onnxprune.evidence.collect import collect
from onnxprune.evidence.sites import sites
from onnxprune.means import Means
from onnxprune.model.graph import Node
from onnxprune.model.model import Model

CONTRACTING = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators that are linear in what they read, and read channels with a stored operand."""
ONE_BY_ONE = frozenset(
    {
        *("Relu", "LeakyRelu", "PRelu", "Identity", "Dropout", "Abs", "Neg"),
        *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool", "ReduceMean", "ReduceMax", "ReduceSum"),
        *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Gather", "Expand", "Tile"),
        *("Concat", "DepthToSpace", "Resize", "Upsample"),
    }
)  # fmt: skip
"""Operators that give a channel times s for a channel times s > 0, whatever the others are."""
TOGETHER = frozenset({"Add", "Sub", "Sum", "Max", "Min"})
"""Operators that do where all of their operands are scaled."""
FACTORS = frozenset({"Mul", "Div"})
"""Operators that do where the first, or of a product one alone, is scaled."""
SCALED = {"writes": -1, "shifts": -1, "reads": 1, "scales": 0}
"""Role of a stored tensor's axis -> the power of the scale that it is multiplied by."""
LARGEST = 8
"""Of the logarithm to base 2 of a scale."""


@once
def equalisable(analysis: Analysis) -> tuple[Group, ...]:
    """Return the groups between whose writers and readers everything is positively homogeneous."""
    links, other = analysis.solution.links, set[int]()
    for index, (node, spec) in enumerate(links.specs):
        if node.outputs and all(name in analysis.facts.constants for name in node.outputs if name):
            continue
        for letter in spec.sizes:
            if (index, letter) not in links.letters:
                continue
            units = analysis.unit[links.letter(index, letter)]
            if (units >= 0).any() and not _passes(analysis, node, spec, letter):
                other.update(groups_on(units, analysis.starts))
    return tuple(group for group in analysis.groups if group.index not in other and _is_scalable(analysis, group))


def _passes(analysis: Analysis, node: Node, spec: Spec, letter: str) -> bool:
    """Whether a node hands a scale of a letter's channels on, writes them, or reads them with a stored operand."""
    constants = analysis.facts.constants
    carried = [bool(axes_with(operand, letter)) for operand in spec.inputs]
    data = [i for i, name in enumerate(node.inputs) if name and name not in constants]
    carriers = sum(carried[i] for i in data if i < len(carried))
    given = any(axes_with(operand, letter) for operand in spec.outputs)
    if node.op in CONTRACTING:
        stored = sum(carried[i] for i, name in enumerate(node.inputs[:2]) if name in constants)
        return carriers <= 1 and (given or (carriers == 1 and stored == 1))
    if not given or node.bodies:
        return False
    if node.op == "Pad":
        return node.attribute("mode", b"constant") in (b"constant", "constant") and _pads_with_zeros(analysis, node)
    if node.op in TOGETHER:
        return all(carried[i] for i, name in enumerate(node.inputs) if name)
    if node.op in FACTORS:
        return carriers == 1 and (node.op == "Mul" or carried[0])
    return node.op in ONE_BY_ONE


def _pads_with_zeros(analysis: Analysis, node: Node) -> bool:
    name = node.input(2)
    value = analysis.facts.array(name) if name else np.zeros(1)
    return value is not None and not value.any() and not node.attribute("value", 0.0)


def _is_scalable(analysis: Analysis, group: Group) -> bool:
    """Whether every stored tensor of a group is of one known role on each axis, writers and readers among them, in float32."""
    roles = defaultdict[tuple[str, int], set[str]](set)
    for member in group.members:
        roles[member.parameter, member.axis].add(member.role)
    kinds = [next(iter(found)) for found in roles.values() if len(found) == 1]
    stored = all(name in analysis.facts.model.weights for name, _ in roles)
    return stored and len(kinds) == len(roles) and {"writes", "reads"} <= set(kinds) <= SCALED.keys()


def scales_by(by: str, analysis: Analysis, rows: Dataset | None, means: Means) -> dict[int, np.ndarray]:
    """Return group -> float64[width], powers of two, for what channels are made alike ``by``: weights, or values of ``rows``."""
    groups = equalisable(analysis)
    written = {group.index: _largest(analysis, group, "writes") for group in groups}
    if by == "values" and groups:
        evidence = collect(analysis, ("moments",), rows, means.quiet)["moments"]
        for group in groups:
            there = sites(analysis)[group.index]
            found = [mean_by_unit(np.sqrt(evidence[s.need("moments")].power), s, group.width) for s in there]
            written[group.index] = np.max([row / max(row.max(), 1e-30) for row in found], axis=0)
    read = {group.index: _largest(analysis, group, "reads") for group in groups}
    found_scales = {index: _power_of_two(written[index], read[index]) for index in written}
    return {index: scale for index, scale in found_scales.items() if (scale != 1).any()}


def _largest(analysis: Analysis, group: Group, role: str) -> np.ndarray:
    """Return float64[width]: the largest weight of each unit, as a share of its tensor's largest."""
    result = np.zeros(group.width)
    for member in group.members:
        if member.role != role:
            continue
        array = np.abs(np.asarray(analysis.facts.content(member.parameter), np.float64))
        per_position = np.moveaxis(array, member.axis, 0).reshape(len(member.units), -1).max(axis=1, initial=0.0)
        inside = member.units >= 0
        np.maximum.at(result, member.units[inside], per_position[inside] / max(float(array.max(initial=0.0)), 1e-30))
    return result


def _power_of_two(written: np.ndarray, read: np.ndarray) -> np.ndarray:
    """Return float64[width]: sqrt(written / read) about its median; 1 where either is zero."""
    known = (written > 0) & (read > 0)
    power = np.zeros(len(written))
    power[known] = np.log2(written[known] / read[known]) / 2
    power[known] -= np.median(power[known]) if known.any() else 0.0
    return np.exp2(np.clip(np.round(power), -LARGEST, LARGEST))


def rescaled(analysis: Analysis, scales: Mapping[int, np.ndarray], groups: Sequence[int]) -> Model:
    """Return the model with the channels of some groups divided by their scales."""
    arrays = dict[str, np.ndarray]()
    for name, axis, factors in _factors(analysis, scales, groups):
        array = arrays[name] if name in arrays else np.array(analysis.facts.content(name))
        form = [1] * array.ndim
        form[axis] = -1
        arrays[name] = array * factors.reshape(form).astype(array.dtype)
    return analysis.facts.model.replaced(arrays) if arrays else analysis.facts.model


def _factors(
    analysis: Analysis, scales: Mapping[int, np.ndarray], groups: Sequence[int]
) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield (stored tensor, axis, factor of each position), every axis once."""
    for index in groups:
        members = {(member.parameter, member.axis): member for member in analysis.groups[index].members}
        for (name, axis), member in members.items():
            power = SCALED[member.role]
            if power:
                inside = member.units >= 0
                yield name, axis, np.where(inside, scales[index][np.where(inside, member.units, 0)] ** power, 1.0)
