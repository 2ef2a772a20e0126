"""The last look at a result before it is written, and the signature it carries."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from onnxprune.changes.plan import Plan
from onnxprune.errors import ModelError, SurgeryError
from onnxprune.model import read
from onnxprune.model.model import Model
from onnxprune.version import __version__


def check_format(small: Model, original: Model) -> tuple[str, ...]:
    """Run the strict checker on the result; raises SurgeryError unless the original fails it too (then: a warning)."""
    try:
        read.check_structure(small, "the pruned model", full=True)
    except ModelError as error:
        try:
            read.check_structure(original, original.name, full=True)
        except ModelError as older:
            return (f"the strict checker refuses the original already: {older}",)
        raise SurgeryError(f"{error}; nothing was written") from error
    return ()


def signed(model: Model, plan: Plan) -> Model:
    """Return the model with the tool, the plan and the original in its metadata, where viewers show them.

    Nothing that differs from run to run: no path, no date; what a plan leads to says the same as the run that made it.
    """
    entries = {
        "onnxprune.version": __version__,
        "onnxprune.plan_digest": hashlib.sha256(plan.to_json().encode()).hexdigest(),
        "onnxprune.source_sha256": plan.model_sha256,
        "onnxprune.changes": ", ".join(dict.fromkeys(step.kind for step in plan.steps)),
        "onnxprune.target": _target(plan.settings),
        "onnxprune.criterion": str(plan.settings.get("criterion", "")),
    }
    structure = model.draft()
    for entry in structure.metadata_props:
        if entry.key in entries:
            entry.value = entries.pop(entry.key)
    for key, value in entries.items():
        structure.metadata_props.add(key=key, value=value)
    return model.derived(structure)


def _target(settings: Mapping[str, Any]) -> str:
    """Return what was asked for, as the option of that name takes it."""
    asked = settings.get("target")
    if asked is not None:
        return str(asked)
    known = [f"{name}={settings[name]:g}" for name in ("ratio", "max_divergence") if settings.get(name) is not None]
    return "".join(known[:1])
