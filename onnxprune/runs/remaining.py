"""What the steps of a plan leave of a model's stored tensors, told without data and without repair: slices, orders and masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from onnxprune.changes.analysing import analyse_model
from onnxprune.changes.change import Change, Space
from onnxprune.changes.context import Context
from onnxprune.changes.plan import Plan, Planned
from onnxprune.changes.zeros.space import Zeros
from onnxprune.coupling.absorb import absorbed
from onnxprune.coupling.prepare import restore
from onnxprune.errors import PlanError
from onnxprune.framework.matching import Remains, StoredFloats
from onnxprune.model.model import Model
from onnxprune.report.entries import some
from onnxprune.report.stages import Stages
from onnxprune.runs.legs import Leg, as_read, by_plan
from onnxprune.settings import Settings

SLICED = ("units", "block", "experts", "lossless", "permute", "zeros")
"""Kinds of steps after which every tensor is a slice of what it was."""
AFTER = ("rewrite", "storage", "quantize")
"""Kinds that come behind all training, and that a checkpoint knows nothing of."""
NO_SLICES = (
    "the plan has a step of {!r}, which makes other weights of those that there are: no slice of a checkpoint is that; plan with widths, "
    "heads, blocks, experts or zeros alone"
)
CHANGES = (
    "the plan's step of {!r} changes what stays of {}, as norms over fewer channels need it: no slice of a checkpoint is that; leave the "
    "streams between norms whole when you prune (--exclude {!r})"
)
NEED_MASKS = (
    "the plan's zeros were chosen by {}, which it does not hold; give the masks that prune wrote (--masks FILE.npz)"
)
LEFT_OUT = "the plan's step of {!r} is of the ONNX file alone; the checkpoint stays without it"
ADDED = (
    "the pruned file computes with {}, made for the cut (norms over fewer channels): a module of plain layers of the new widths gives other "
    "outputs; leave the axes that these norms are taken over whole (--exclude), or write the module so"
)


class Replay:
    """A plan carried out on a model without repair, step by step, keeping account of every stored tensor."""

    def __init__(self, model: Model, settings: Settings, stages: Stages, masks: Path | None = None):
        self.masks_file, self.warnings, self.stages = masks, list[str](), stages
        self.context = Context(analyse_model(model, settings), model, settings, stages=stages)
        self.stored = StoredFloats(self.context.analysis.facts.model)
        self.copies = self.context.analysis.facts.model.copies
        self.positions: dict[str, dict[int, np.ndarray]] = {}
        self.gone = set[str]()
        self.masks: dict[str, np.ndarray] = {}

    def run(self, plan: Plan) -> Remains:
        """Take all steps; raises PlanError for one that leaves more than slices."""
        for step, leg in zip(plan.steps, by_plan(plan, self.context.settings), strict=True):
            if step.kind in AFTER:
                self.warnings.append(LEFT_OUT.format(step.kind))
            elif step.kind not in SLICED:
                raise PlanError(NO_SLICES.format(step.kind))
            elif step.kind == Zeros.kind:
                self._mask(step, leg)
            else:
                self._step(leg)
        return Remains(self.positions, frozenset(self.gone), self.masks)

    def _step(self, leg: Leg) -> None:
        """Cut, and compare every tensor with the slice that it should be."""
        space: Space = leg.space(self.context)
        change = leg.decide(space)
        before = StoredFloats(self.context.facts.model)
        with self.stages("cut"):
            made = change.made()
        known = self.context.facts.model
        whole = restore(made, replace(known, copies={**known.copies, **made.copies}))
        small = absorbed(whole)
        after, final = StoredFloats(made), StoredFloats(small)
        wrong = [
            name
            for name in before
            if name in after and not _is_slice(before[name], space.placed(change, name), after[name])
        ]
        wrong += [
            name
            for name in final
            if small is not whole and name in after and not _is_slice(after[name], {}, final[name])
        ]
        if wrong:
            raise PlanError(CHANGES.format(space.kind, some(wrong, 4), wrong[0]))
        added = [name for name in final if name not in before and name not in known.copies]
        self.warnings += [ADDED.format(some(added, 4))] if added else []
        for name in self.stored:
            self._carry(space, change, name, before, after)
        self.context = self.context.on(analyse_model(as_read(small), self.context.settings))

    def _carry(self, space: Space, change: Change, name: str, before: StoredFloats, after: StoredFloats) -> None:
        """Note the positions of a tensor that stay; of a copy that a later step needs no more those of what it is a copy of."""
        own = name if name in before else self.copies.get(name, name)
        if own not in before or own not in after:
            self.gone.add(name)
            return
        for axis, stay in space.placed(change, own).items():
            left = self.positions.setdefault(name, {})
            left[axis] = left[axis][stay] if axis in left else stay

    def _mask(self, step: Planned, leg: Leg) -> None:
        """Note which weights become zero: as a file of masks says, or as the weights themselves tell."""
        context = self.context
        if self.masks_file is not None:
            settings = replace(context.settings, sparsity=str(self.masks_file))
            change: Change = leg.space(replace(context, settings=settings)).choose(settings.aim)
        else:
            by = [str(one) for one in step.record.get("by", ())]
            if by != ["weights"] or step.record.get("rewind"):
                raise PlanError(NEED_MASKS.format("earlier weights" if step.record.get("rewind") else " and ".join(by)))
            change = leg.decide(leg.space(context))
        self.masks |= change.space.masks(change)


def _is_slice(array: np.ndarray, places: Mapping[int, np.ndarray], found: np.ndarray) -> bool:
    """Whether an array holds these positions of another one, in this order."""
    for axis, stay in places.items():
        array = np.take(array, stay, axis)
    return array.shape == found.shape and np.array_equal(array, found, equal_nan=True)


def masks_taken(plan: Plan, masks: Path | None) -> None:
    """Raise PlanError where masks are given that no step of the plan asks for."""
    if masks is not None and all(step.kind != Zeros.kind for step in plan.steps):
        raise PlanError(f"masks {masks}: the plan makes no single weights zero; leave --masks out")
