"""A training checkpoint sliced as a plan says: what the plan leaves of the model, matched with the checkpoint's tensors, written, told."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from onnxprune.changes.plan import Plan, check_digest
from onnxprune.errors import PlanError
from onnxprune.framework.matching import OTHER, StoredFloats
from onnxprune.framework.safetensors import SafeTensors, write_taken
from onnxprune.framework.slicing import Fate, fates
from onnxprune.model.model import Model
from onnxprune.report import entries
from onnxprune.report.entries import Report
from onnxprune.report.stages import Stages
from onnxprune.runs.remaining import Replay, masks_taken
from onnxprune.settings import Settings
from onnxprune.version import __version__


@dataclass(frozen=True)
class Slicing:
    """What a checkpoint is sliced by: the plan, the masks that prune wrote for it, and what becomes of tensors that are not told."""

    plan: Plan
    masks: Path | None = None
    untold: str = "refuse"
    force: bool = False


def slice_by_plan(
    model: Model, weights: Path, slicing: Slicing, settings: Settings, place: Path, stages: Stages
) -> Report:
    """Write what the plan leaves of a checkpoint to ``place`` and return the report; raises PlanError, DataError, OutputError."""
    plan = slicing.plan
    check_digest(plan, model.source_sha256, force=slicing.force)
    masks_taken(plan, slicing.masks)
    file = SafeTensors.open(weights)
    with stages("analyze"):
        replay = Replay(model, settings, stages, slicing.masks)
        remains = replay.run(plan)
    with stages("match"):
        found, lost = fates(replay.stored, file, remains, slicing.untold)
    left = {fate.name: fate.left for fate in found if fate.left is not None}
    if not left:
        raise PlanError(f"the plan leaves no tensor of {weights}; nothing was written")
    signature = {
        "onnxprune.version": __version__,
        "onnxprune.plan_digest": hashlib.sha256(plan.to_json().encode()).hexdigest(),
        "onnxprune.source_sha256": plan.model_sha256,
    }
    with stages("save"):
        write_taken(file, left, {**file.about, **signature}, place)
    return entries.header("checkpoint", plan.settings) | {
        "model": entries.model_entry(model),
        "weights": {"path": str(weights), "bytes": weights.stat().st_size, "tensors": len(file)},
        "output": {"path": str(place), "bytes": place.stat().st_size},
        "sliced": [_row(fate, file) for fate in found],
        "unmatched": _unmatched(replay.stored, lost),
        "warnings": list(dict.fromkeys([*replay.warnings, *_told(found)])),
        "seconds": stages.seconds,
    }


def _row(fate: Fate, file: SafeTensors) -> Report:
    after = fate.shape_after
    return {
        "name": fate.name,
        "status": fate.status,
        "how": fate.how if fate.tensor is not None else None,
        "tensor": fate.tensor,
        "reason": None if fate.tensor is not None else fate.how,
        "dtype": file.places[fate.name].kind,
        "shape_before": list(fate.shape),
        "shape_after": None if after is None else list(after),
        "zeros": fate.zeros,
    }


def _unmatched(stored: StoredFloats, lost: list[str]) -> list[Report]:
    """Describe the tensors of the model that change and that no tensor of the checkpoint is."""
    readers = {name: [node.label for node, _ in stored.graph.consumers.get(name, ())] for name in lost}
    return [{"tensor": name, "shape": list(stored.shape(name)), "readers": readers[name]} for name in lost]


def _told(found: list[Fate]) -> list[str]:
    """Return what to warn of: tensors that were left whole though they may have to be cut, and content that is another's."""
    forced = [fate for fate in found if fate.doubtful]
    other = [fate.name for fate in found if fate.how.endswith(OTHER)]
    warnings = []
    if forced:
        warnings.append(
            f"{len(forced)} tensors were {forced[0].status}, and it is not known whether and where they have to be cut: {entries.some([fate.name for fate in forced], 4)}"
        )
    if other:
        warnings.append(
            f"{len(other)} tensors are told by their names alone, for they hold other numbers than the model: {entries.some(other, 4)}; "
            "a checkpoint of another day is sliced all the same"
        )
    return warnings
