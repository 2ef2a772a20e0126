"""Packed files given back in their plain form, for tools that want weights as constants."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from onnx import ModelProto

from onnxprune.changes.change import NOWHERE
from onnxprune.coupling.folding import unpacked_tensors
from onnxprune.model.model import Model
from onnxprune.model.write import save, stored_bytes
from onnxprune.report import entries
from onnxprune.report.display import sheet_of
from onnxprune.report.entries import Report
from onnxprune.report.stages import Stages
from onnxprune.sheet import SeenAsSheet, Sheet

NOTHING = "nothing in {} is packed: the result holds the same tensors"


@dataclass(frozen=True, repr=False)
class Expanded(SeenAsSheet):
    """``report``: which tensors were packed, and the bytes before and after; ``plain``: the model with these stored as they are."""

    report: Report
    plain: Model

    @property
    def sheet(self) -> Sheet:
        """What the report has to say first."""
        return sheet_of(self.report)

    @cached_property
    def model(self) -> ModelProto:
        """The plain model as one message; external data stays where it is."""
        return self.plain.proto


def expanded(model: Model, place: Path | None, stages: Stages, *, force: bool = False) -> Expanded:
    """Decode what a model stores in fewer bytes, numbers of another type too, and write it; raises ModelError, OutputError.

    ``place``: where it goes (None: nowhere).
    """
    with stages("unpack"):
        plain, names = unpacked_tensors(model, casts=True)
    report = entries.header("expand") | {
        "model": entries.model_entry(model),
        "output": None,
        "before": {"bytes": model.size},
        "after": {"bytes": stored_bytes(plain, place or NOWHERE)},
        "expanded": [{"name": name, "bytes": plain.weights[name].nbytes} for name in names],
        "warnings": [] if names else [NOTHING.format(model.name)],
    }
    if place is not None:
        with stages("save"):
            report["output"] = {"path": str(place), "sha256": save(plain, place, force=force)}
    return Expanded(report | {"seconds": stages.seconds}, plain)
