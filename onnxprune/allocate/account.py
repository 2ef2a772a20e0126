"""What every group and every frozen axis of a model has at stake."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from onnxprune.allocate.cost import Costs
from onnxprune.coupling.groups import Analysis, Frozen, Volume
from onnxprune.model.facts import Facts
from onnxprune.model.model import Model


@dataclass(frozen=True)
class Stake:
    """What depends on an axis or a group: parameters, and MACs of one sample."""

    parameters: int
    macs: int


def batch_size(facts: Facts) -> int:
    """Return how many samples shapes were inferred for, where costs are of one."""
    return facts.batch


def model_totals(analysis: Analysis, widths: np.ndarray, model: Model | None = None) -> dict[str, int]:
    """Return parameters, MACs of one sample, bytes and channels with ``widths`` (int64[groups]) units left in each group.

    What was added for the analysis counts where ``model`` holds it.
    """
    found = Costs(analysis).totals(widths)
    held = model.weights.keys() if model else set()
    known = analysis.facts.model
    added = known.copies.keys() | {one.shift for one in known.widened}
    absent = [v for v in analysis.parameters if v.name in added and v.name not in held]
    return {
        **found,
        "macs": found["macs"] // batch_size(analysis.facts),
        "parameters": found["parameters"] - sum(volume.at(widths) for volume in absent),
        "weight_bytes": found["weight_bytes"] - sum(int(volume.at(widths) * volume.itemsize) for volume in absent),
    }


def group_stakes(analysis: Analysis) -> list[Stake]:
    """Return for each group what would go if all of its units went."""
    parameters = _without_each(analysis, analysis.parameters)
    macs = _without_each(analysis, analysis.macs)
    batch = batch_size(analysis.facts)
    return [Stake(p, m // batch) for p, m in zip(parameters, macs, strict=True)]


def _without_each(analysis: Analysis, volumes: tuple[Volume, ...]) -> list[int]:
    totals = [0] * len(analysis.groups)
    for volume in volumes:
        whole = volume.at(analysis.widths)
        for group in {g for slopes in volume.slopes for g in slopes}:
            without = analysis.widths.copy()
            without[group] = 0
            totals[group] += whole - volume.at(without)
    return totals


def frozen_stakes(analysis: Analysis) -> list[tuple[Frozen, Stake]]:
    """Return every frozen axis with what its positions account for, the costliest first."""
    macs = _macs_of_parameters(analysis)
    sizes = {volume.name: volume.at(analysis.widths) for volume in analysis.parameters}
    batch = batch_size(analysis.facts)
    rows = [
        (f, Stake(sizes[f.parameter] * f.positions // f.size, macs[f.parameter] * f.positions // f.size // batch))
        for f in analysis.frozen
    ]
    return sorted(rows, key=lambda row: (-row[1].macs, -row[1].parameters))


def _macs_of_parameters(analysis: Analysis) -> dict[str, int]:
    """Return for each parameter the MACs of the nodes that read it, directly or through stored tensors alone."""
    facts = analysis.facts
    by_node: dict[int, int] = defaultdict(int)
    for volume in analysis.macs:
        by_node[id(volume.node)] += volume.at(analysis.widths)

    reached: dict[str, int] = {}

    def read(name: str) -> int:
        users = dict.fromkeys(node for node, _ in facts.graph.consumers.get(name, ()))
        direct = sum(by_node.get(id(node), 0) for node in users)
        return direct + sum(reached[o] for node in users for o in node.outputs if o and o in facts.constants)

    for node in reversed(facts.graph.nodes):  # whoever reads a value comes behind
        reached.update((name, read(name)) for name in node.outputs if name and name in facts.constants)
    return {volume.name: read(volume.name) for volume in analysis.parameters}
