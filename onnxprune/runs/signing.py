"""The last look at a result before it is written, and the signature it carries."""

from __future__ import annotations

import hashlib

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
    """Return the model with the tool, the plan and the original in its metadata; nothing that differs from run to run."""
    entries = {
        "onnxprune.version": __version__,
        "onnxprune.plan_digest": hashlib.sha256(plan.to_json().encode()).hexdigest(),
        "onnxprune.source_sha256": plan.model_sha256,
    }
    structure = model.draft()
    for entry in structure.metadata_props:
        if entry.key in entries:
            entry.value = entries.pop(entry.key)
    for key, value in entries.items():
        structure.metadata_props.add(key=key, value=value)
    return model.derived(structure)
