"""A run with fewer tokens: first the vocabulary, then all else on the tokens that stay; the map is written beside the model."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
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
from onnxprune.changes.vocabulary.numbering import renumbered
from onnxprune.changes.vocabulary.space import Vocabulary
from onnxprune.changes.vocabulary.surgery import refusing
from onnxprune.errors import TargetError, UsageError
from onnxprune.model.model import Model
from onnxprune.model.places import check_writable
from onnxprune.model.runtime import session
from onnxprune.model.write import write_bytes
from onnxprune.report.entries import Report
from onnxprune.runs.legs import Leg, as_read, taken
from onnxprune.settings import ORIGINAL_NUMBERS

SUFFIX, JSON_SUFFIX = ".vocabulary.npz", ".vocabulary.json"


def cuts_tokens(plan: Plan) -> bool:
    """Whether a plan begins with a vocabulary."""
    return bool(plan.steps) and plan.steps[0].kind == Vocabulary.kind


def numbers_of(plan: Plan) -> str:
    """Return which numbers of tokens the result of a plan takes."""
    tokens = plan.steps[0].record.get("tokens")
    return str(tokens.get("numbers", ORIGINAL_NUMBERS)) if isinstance(tokens, Mapping) else ORIGINAL_NUMBERS


def of_tokens(context: Context, decide: Callable[[Space[Any]], Change[Any]]) -> tuple[Context, list[Step[Any]]]:
    """Cut the vocabulary; return the context of what follows, which is compared on the tokens that stay, and the step."""
    settings = replace(context.settings, recover=0)
    step = taken(context, [Leg(Vocabulary, decide, settings)])[0]
    as_written(step.model, [step])  # what cannot be written is refused before any other work
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


def numbers_taken(model_steps: Sequence[Step[Any]]) -> np.ndarray | None:
    """Return int64: the numbers of tokens that the result takes, None where it takes all of the original's."""
    space = _space(model_steps)
    if space is None:
        return None
    return space.map.ids if space.map.numbers == ORIGINAL_NUMBERS else np.arange(len(space.map.ids))


def _space(steps: Sequence[Step[Any]]) -> Vocabulary | None:
    return next((step.change.space for step in steps if isinstance(step.change.space, Vocabulary)), None)


def as_written(model: Model, steps: Sequence[Step[Any]]) -> Model:
    """Return the result as it is written: tokens that went are refused, unless one that stays stands for them, or it takes new numbers.

    Raises ModelError where numbers cannot be new, TargetError where the model gives something else under them.
    """
    space = _space(steps)
    if space is None or space.map.numbers == ORIGINAL_NUMBERS:
        return model if space is None else refusing(model, space.map)
    written = renumbered(model, space.inputs, space.map)
    _require_equal(space, model, written)
    return written


def _require_equal(space: Vocabulary, model: Model, written: Model) -> None:
    """Run the model on the original's numbers and the written one on new ones: the outputs have to be equal, bit by bit."""
    ends = session(model), session(written)
    for feeds in space.feeds():
        new = {
            name: space.map.new[value].astype(value.dtype) if name in space.inputs else value
            for name, value in feeds.items()
        }
        one, two = ends[0].run(feeds), ends[1].run(new)
        if not all(_same(np.asarray(one[name]), np.asarray(two[name])) for name in one):
            raise TargetError("the model gives other outputs under new numbers of tokens; leave token_numbers out")


def _same(one: np.ndarray, two: np.ndarray) -> bool:
    return np.array_equal(one, two, equal_nan=one.dtype.kind == "f")


def map_path(output: Path) -> Path:
    """Return where the map of tokens lies: beside the model, so that nothing but its name decides."""
    return output.with_name(output.name + SUFFIX)


def require_places(output: Path, numbers: str, force: bool) -> None:
    """Refuse to write over a map of tokens unless forced; raises UsageError."""
    for path in (map_path(output), *([json_path(output)] if numbers != ORIGINAL_NUMBERS else [])):
        check_writable(path, force)


def json_path(output: Path) -> Path:
    """Return where the map lies as JSON, for callers that look numbers up themselves."""
    return output.with_name(output.name + JSON_SUFFIX)


def save_maps(steps: Sequence[Step[Any]], output: Path) -> Report:
    """Write ``old_to_new`` (int64, -1: gone) and ``new_to_old`` (int64); return path and SHA-256. Raises OutputError.

    For new numbers also as JSON: ``old_to_new`` of the tokens that stay alone, and what ``unknown`` tokens count as (null: nothing).
    """
    space = _space(steps)
    assert space is not None, "only where there is a map"
    tokens, content, path = space.map, BytesIO(), map_path(output)
    np.savez(content, old_to_new=tokens.new, new_to_old=tokens.ids)
    write_bytes(content.getvalue(), path)
    found: Report = {"path": str(path), "sha256": hashlib.sha256(content.getvalue()).hexdigest()}
    if tokens.numbers != ORIGINAL_NUMBERS:
        unknown = int(tokens.new[tokens.stand_in]) if tokens.unknown else None
        old_to_new = {str(old): new for new, old in enumerate(tokens.ids.tolist())}
        text = json.dumps({"old_to_new": old_to_new, "unknown": unknown}, separators=(",", ":"))
        write_bytes(text.encode(), json_path(output))
        found["json"] = str(json_path(output))
    return found
