"""Whole runs in steps: prune a little, repair, recover, and again (``--schedule``); or from earlier weights (``--rewind``).

Between two steps the model keeps its shapes: trained weights go back into the original's tensors, and the weights of units
that are gone are zero there, or stay as they were where units may come back. So every step means by a ratio, a budget or
a limit per group what the whole run means by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.allocate import Costs, keep_best
from onnxprune.allocate.target import KINDS
from onnxprune.coupling.cut import Kept, cut
from onnxprune.coupling.groups import Analysis
from onnxprune.criteria import score
from onnxprune.errors import SurgeryError, UsageError
from onnxprune.model.graph import Graph
from onnxprune.model.read import FLOATS, Model
from onnxprune.proof.check import SurgeryCheck
from onnxprune.recover import parse_length
from onnxprune.report.entries import Report
from onnxprune.runs.pipeline import Run, totals
from onnxprune.runs.stages import Stages, analyse_model, choose, per_run
from onnxprune.search import Reconstruction
from onnxprune.settings import Settings

SILENCED = ("reads", "writes")  # roles of the weights that are zero while their unit is gone


@dataclass
class Step(Run):
    """One step: like a run of its own, but its weights may come from ``rewound``, the same network as it was earlier."""

    rewound: Analysis | None = None

    def _repaired(self, analysis: Analysis, kept: Kept, small: Model) -> Model:
        if self.rewound is not None:
            return cut(self.rewound, kept)
        return super()._repaired(analysis, kept, small)


@dataclass
class SteppedRun(Run):
    """Goes to the target in the steps of a schedule; ``rewind``: the same network with the weights that every step starts from."""

    rewind: Model | None = None
    _rewound: Analysis | None = field(default=None, init=False)

    def choose(self, analysis: Analysis) -> list[np.ndarray]:
        """Take all steps; return what stays after the last, whose weights ``carry_out`` will carry over."""
        if self.rewind is not None:
            self._rewound = _same_network(analysis, analyse_model(self.rewind, self.settings), self.rewind)
        now, alive = analysis, [np.ones(width, bool) for width in analysis.widths]
        log: list[Report] = []
        for number, settings in enumerate(step_settings(self.settings, analysis), 1):
            step = Step(self.command, self.model, settings, self.data, self._stages_of(number), rewound=self._rewound)
            step.outputs = self.outputs
            if self.checkpoint is not None:
                step.checkpoint = self.checkpoint.with_name(f"{self.checkpoint.name}.{number}")
            kept = step.choose(now)
            if not self.settings.may_return:
                kept = still_alive(now, kept, alive, settings)
            small, _ = step.carry_out(now, kept)
            log.append(_entry(analysis, kept, alive) | step.extra)
            self.warnings += [text for text in step.warnings if text not in self.warnings]
            alive, trained = kept, small
            now = analyse_model(written_back(now, kept, small, silent=not self.settings.may_return), settings)
            now = now.without(analysis.barred)
        self.reconstruction = Reconstruction(trained, alive, alive)
        self.extra |= {name: found for name, found in step.extra.items() if name in ("repair", "recover", "search")}
        self.extra["schedule"] = {"name": self.settings.steps.name, "steps": log} | self._likeness(analysis, alive)
        return alive

    def carry_out(self, analysis: Analysis, kept: Kept) -> tuple[Model, SurgeryCheck]:
        """Cut the original, and give the result the weights that the steps have led to."""
        found = self.reconstruction
        small, check = self.cut_exactly(analysis, kept)
        if found is None or not all(map(np.array_equal, found.kept, kept)):
            raise SurgeryError("the steps led to a cut that is not exact on the original; nothing was written")
        return found.carried(analysis, small), check

    def _stages_of(self, number: int) -> Stages:
        progress, of = self.stages.progress, self.settings.steps.steps
        return replace(self.stages, progress=lambda text: progress(f"step {number} of {of}: {text}"))

    def _likeness(self, analysis: Analysis, kept: Kept) -> Report:
        """Compare with what the criterion would keep of the rewound weights alone."""
        if self._rewound is None or self.settings.scorer.needs:
            return {}
        own, _ = choose(self._rewound, replace(self.settings, schedule="one-shot"))
        return {"overlap_with_rewind": overlap(kept, own)}


def step_settings(settings: Settings, analysis: Analysis) -> Iterator[Settings]:
    """Yield the settings of every step: its share of the target, and an equal part of the recovery."""
    schedule, aim = settings.steps, per_run(settings.aim, analysis)
    costs = Costs(analysis)
    if aim.kind == "ratio":
        final = aim.value
    else:
        whole = float(costs.total(KINDS[aim.kind], costs.widths))
        final = 1 - aim.budget(whole) / whole
    part = _part(settings.recover, schedule.steps)
    for share in schedule.shares(final)[:-1]:
        named = {"ratio": share} if aim.kind == "ratio" else {"target": f"{aim.kind}={1 - share:.9f}x"}
        yield replace(settings, **named, recover=part)
    yield replace(settings, recover=part)


def _part(length: str | int, steps: int) -> str | int:
    if length in (0, "0"):
        return 0
    ((unit, number),) = parse_length(length).items()
    return f"{number / steps:.6f}s" if unit == "seconds" else max(1, round(number / steps))


def still_alive(analysis: Analysis, kept: Kept, alive: Kept, settings: Settings) -> list[np.ndarray]:
    """Return ``kept`` without units that were gone already; as many others stay instead, as long as there are any.

    Units that are gone have zero weights and rank last, so that only ties and rounding to legal widths bring them here.
    """
    if not any((mask & ~before).any() for mask, before in zip(kept, alive, strict=True)):
        return list(kept)
    weights = score(analysis, replace(settings, criterion="l2").scorer, settings.means).values
    found = []
    for mask, before, strength in zip(kept, alive, weights, strict=True):
        rank = np.where(mask & before, np.inf, np.where(before, strength, -np.inf))
        found.append(keep_best(rank, min(int(mask.sum()), int(before.sum()))))
    return found


def written_back(analysis: Analysis, kept: Kept, small: Model, *, silent: bool) -> Model:
    """Return the model of ``analysis`` with the weights of ``small`` where units stay; ``silent``: zero where they are gone."""
    model, gone = analysis.facts.model, [~mask for mask in kept]
    sources, arrays = Graph(small.structure).tensors, {}
    silenced = {
        (member.parameter, member.axis, group.index): gone[group.index][member.units] & (member.units >= 0)
        for group in analysis.groups
        for member in group.members
        if silent and member.role in SILENCED and gone[group.index].any()
    }
    for name, tensor in analysis.facts.graph.tensors.items():
        if tensor.data_type not in FLOATS or name not in sources:
            continue
        array = model.array(tensor).copy()
        masks = [analysis.keep_mask(kept, name, axis) for axis in range(array.ndim)]
        places = [
            np.arange(size) if mask is None else np.flatnonzero(mask)
            for mask, size in zip(masks, array.shape, strict=True)
        ]
        array[np.ix_(*places)] = small.array(sources[name])
        for (parameter, axis, _), positions in silenced.items():
            if parameter == name:
                array[(slice(None),) * axis + (positions,)] = 0
        arrays[name] = array
    return replace(model.replaced(arrays), copies={}, sparse=())


def overlap(first: Kept, second: Kept) -> dict[str, float]:
    """Return the Jaccard index of what two decisions remove, and what it would be for random units of the same number."""
    gone = [(~a, ~b) for a, b in zip(first, second, strict=True)]
    together = sum(float((a & b).sum()) for a, b in gone)
    chance = sum(float(a.sum()) * float(b.sum()) / len(a) for a, b in gone)
    total = sum(float(a.sum() + b.sum()) for a, b in gone)
    return {"jaccard": _jaccard(together, total), "chance": _jaccard(chance, total)}


def _jaccard(common: float, total: float) -> float:
    return round(common / (total - common), 6) if total > common else 1.0


def _entry(analysis: Analysis, kept: Kept, before: Kept) -> Report:
    """What one step did: units that are left, that went, that came back, and how many parameters and MACs are left."""
    widths = np.array([int(mask.sum()) for mask in kept], np.int64)
    found = totals(Costs(analysis), analysis, widths)
    pairs = list(zip(kept, before, strict=True))
    return {
        "units": int(widths.sum()),
        "went": sum(int((old & ~new).sum()) for new, old in pairs),
        "returned": sum(int((new & ~old).sum()) for new, old in pairs),
        **{kind: found[kind] for kind in ("parameters", "macs")},
    }


def _same_network(analysis: Analysis, other: Analysis, model: Model) -> Analysis:
    """Return ``other`` if it has the groups and the tensors of ``analysis``; raises UsageError."""
    wanted, found = ({g.name: g.width for g in one.groups} for one in (analysis, other))
    for name, width in wanted.items():
        if found.get(name) != width:
            have = "no such group" if name not in found else f"one of {found[name]} units"
            raise UsageError(
                f"--rewind {model.name} is another network: the model has a group {name!r} of {width} units, that one has {have}"
            )
    for name in analysis.facts.graph.tensors:
        if other.facts.shape(name) != analysis.facts.shape(name):
            raise UsageError(
                f"--rewind {model.name} is another network: tensor {name!r} is missing or has another shape there"
            )
    return other
