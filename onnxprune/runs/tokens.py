"""A run with fewer tokens: first the vocabulary, then all else on the tokens that stay; the map is written beside the model."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.allocate.account import model_totals
from onnxprune.changes.analysing import analyse_model, outputs_of
from onnxprune.changes.change import Change, Space
from onnxprune.changes.context import Context
from onnxprune.changes.plan import Plan
from onnxprune.changes.proven import Step
from onnxprune.changes.vocabulary.space import Vocabulary
from onnxprune.changes.vocabulary.surgery import TokenMap, refusing
from onnxprune.errors import UsageError
from onnxprune.model.model import Model
from onnxprune.model.write import write_bytes
from onnxprune.report.entries import Report
from onnxprune.runs.legs import Leg, as_read, taken

SUFFIX = ".vocabulary.npz"


def cuts_tokens(plan: Plan) -> bool:
    """Whether a plan begins with a vocabulary."""
    return bool(plan.steps) and plan.steps[0].kind == Vocabulary.kind


def of_tokens(context: Context, decide: Callable[[Space[Any]], Change[Any]]) -> tuple[Context, list[Step[Any]]]:
    """Cut the vocabulary; return the context of what follows, which is compared on the tokens that stay, and the step."""
    settings = replace(context.settings, recover=0)
    step = taken(context, [Leg(Vocabulary, decide, settings)])[0]
    space = copy.copy(step.change.space)
    assert isinstance(space, Vocabulary)
    original, outputs = context.original, context.outputs
    with context.stages("analyze"):
        analysis = analyse_model(as_read(step.model), context.settings)
    if any(part.outputs for part in step.change.parts):
        original, measured = space.reference(step.change), context.data.measured
        if measured is not None and measured.has_labels:
            raise UsageError("labels count the scores of all tokens, of which vocabulary takes some; leave labels out")
        if measured is not None:
            with context.stages("outputs"):
                data = context.data.calibration or measured
                outputs = outputs_of(analysis, context.settings, data)
    after = replace(context.on(analysis), original=original, outputs=outputs)
    space.after = model_totals(analysis, analysis.widths)
    space.context = replace(space.context, original=original, outputs=outputs)
    return after, [replace(step, change=replace(step.change, space=space))]


def _map(steps: Sequence[Step[Any]]) -> TokenMap | None:
    spaces = [step.change.space for step in steps]
    return next((space.tokens for space in spaces if isinstance(space, Vocabulary)), None)


def as_written(model: Model, steps: Sequence[Step[Any]]) -> Model:
    """Return the result as it is written: tokens that went are refused, unless one that stays stands for them."""
    tokens = _map(steps)
    return model if tokens is None else refusing(model, tokens)


def map_path(output: Path) -> Path:
    """Return where the map of tokens lies: beside the model, so that nothing but its name decides."""
    return output.with_name(output.name + SUFFIX)


def save_map(steps: Sequence[Step[Any]], path: Path) -> Report:
    """Write ``old_to_new`` (int64, -1: gone) and ``new_to_old`` (int64); return path and SHA-256. Raises OutputError."""
    tokens = _map(steps)
    assert tokens is not None, "only where there is a map"
    content = BytesIO()
    np.savez(content, old_to_new=tokens.new, new_to_old=tokens.ids)
    write_bytes(content.getvalue(), path)
    return {"path": str(path), "sha256": hashlib.sha256(content.getvalue()).hexdigest()}
