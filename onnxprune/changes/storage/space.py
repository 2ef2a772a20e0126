"""How tensors are stored as a kind of change (``--storage``), behind all that change weights: the file is smaller, the model is not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onnxprune.allocate import Costs, Target
from onnxprune.changes.change import Change, Space
from onnxprune.changes.context import Context
from onnxprune.changes.storage.choose import STORAGES, TensorForm, best_form, candidates, stays, without_loss
from onnxprune.changes.storage.figures import file_figures
from onnxprune.changes.storage.forms import FORMS, PLAIN, Packing
from onnxprune.changes.storage.rounding import Rounded, to_half
from onnxprune.changes.storage.snapping import Snapped, snapped
from onnxprune.changes.storage.surgery import stored_as, wrongly_decoded
from onnxprune.errors import PlanError
from onnxprune.model.model import Model
from onnxprune.model.tensors import packed_size
from onnxprune.proof.check import SurgeryCheck
from onnxprune.report.entries import Report

DATA, WEIGHTS = "data", "weights"
BLIND = (
    "a codebook changes every weight, by weights alone, and nothing says what that costs; give data (--calib), by which numbers "
    "are chosen and judged"
)
NEARLY = 1.05
"""Times the bytes of a form that rounds, for which one that does not is taken."""


@dataclass(frozen=True)
class StoredTensor:
    """A stored tensor and the form that it takes; ``kept``: with its numbers as they are."""

    name: str
    choice: TensorForm
    kept: bool = False

    @property
    def form(self) -> Packing:
        return self.choice.form


class Storing(Space[StoredTensor]):
    """The stored tensors of two axes or more, by name."""

    kind, name, noun, verb, changed = "storage", "storage", "tensor", "stores", "packed"
    aims: ClassVar[tuple[str, ...]] = ()
    loses: ClassVar[bool] = False
    passes: ClassVar[Mapping[str, float] | None] = {}
    trains: ClassVar[bool] = False

    def __init__(self, context: Context):
        super().__init__(context)
        self.storage = STORAGES[context.settings.storage]
        self.tensors: tuple[StoredTensor, ...] = context.once("storage", self._tensors)
        self._last: tuple[tuple[str, ...], Mapping[str, np.ndarray]] | None = None

    def _tensors(self) -> tuple[StoredTensor, ...]:
        return tuple(map(self._tensor, candidates(self.context.facts)))

    def _tensor(self, name: str) -> StoredTensor:
        facts, reason = self.context.facts, stays(self.context.facts, name)
        if reason:
            size = packed_size(facts.graph.tensors[name].data_type, math.prod(facts.graph.tensors[name].dims))
            return StoredTensor(name, TensorForm(PLAIN, size, size, 0.0, 0.0, reason))
        array, opset = np.asarray(facts.content(name)), facts.graph.versions.get("", 1)
        found = StoredTensor(name, best_form(self.storage, array, self._rounded(name, False), opset))
        if not found.choice.error or not without_loss(self.storage, array):
            return found
        exact = best_form(self.storage, array, self._rounded(name, True), opset)
        return StoredTensor(name, exact, True) if exact.bytes <= NEARLY * found.choice.bytes else found

    def _rounded(self, name: str, kept: bool) -> Rounded:
        """Return what a tensor is to hold."""
        array = np.asarray(self.context.facts.content(name))
        if kept:
            return Rounded(array + array.dtype.type(0), 0.0)
        return self.snapped.rounded(name, array) if self.storage.colours else to_half(array)

    def holds(self, tensor: StoredTensor) -> np.ndarray:
        """Return what a tensor is to hold."""
        return self._rounded(tensor.name, tensor.kept).array

    @property
    def snapped(self) -> Snapped:
        """The tensors whose numbers are those of a table, and what makes up for that."""
        return self.context.once("snapped", lambda: snapped(self.context, self.storage))

    def parts(self) -> Sequence[StoredTensor]:
        return [tensor for tensor in self.tensors if tensor.form != PLAIN]

    def choose(self, aim: Target) -> Change[StoredTensor]:
        """Take every tensor that a form makes smaller; say where there is none."""
        if not self.open:
            reasons = dict.fromkeys(f"{tensor.name}: {tensor.choice.reason}" for tensor in self.tensors)
            told = "; ".join(list(reasons)[:3]) or "it stores no tensor of two axes or more"
            self.context.notes.warn(f"no tensor of this model is stored in another form ({told})")
        elif self.storage.colours and self.context.data.measured is None:
            self.context.notes.warn(BLIND)
        return Change(self, self.open)

    def contents(self, change: Change[StoredTensor]) -> Mapping[str, np.ndarray]:
        """Return the numbers of the tensors that change, and of those that make up for it; kept for the last change."""
        key = tuple(part.name for part in change.parts)
        if self._last is None or self._last[0] != key:
            own = {part.name: self.holds(part) for part in change.parts}
            self._last = key, {**own, **(self.snapped.others if self.storage.colours and own else {})}
        return self._last[1]

    def silent(self, change: Change[StoredTensor]) -> Model:
        """Return the model with the same numbers, stored plainly."""
        return self.context.facts.model.replaced(self.contents(change))

    def made(self, change: Change[StoredTensor]) -> Model:
        if not change.parts:
            return self.context.facts.model
        return stored_as(self.silent(change), {part.name: part.form for part in change.parts})

    def checked(self, change: Change[StoredTensor], small: Model) -> SurgeryCheck:
        """Every tensor has to come back bit for bit, and the outputs have to be those of the same numbers stored plainly."""
        contents = self.contents(change)
        wrong = wrongly_decoded(small, {part.name: contents[part.name] for part in change.parts})
        if wrong:
            return SurgeryCheck(False, np.inf, np.inf, 0.0, problem=f"{wrong[0]} is not decoded to what it was")
        return self.context.prover.compare(self.silent(change), small, None)

    def repaired(self, change: Change[StoredTensor], small: Model) -> Model:
        """Return the model as it is; say what its storage saves, loses and takes."""
        with self.context.stages("storage"):
            found = file_figures(self.context, self.silent(change), small, self.contents(change))
        error = max((part.choice.error for part in change.parts), default=0.0)
        told = {"storage": self.context.settings.storage, "largest_error": error}
        self.context.notes.entries["packing"] = told | found
        return small

    def prunable(self) -> dict[str, float]:
        return Costs(self.context.analysis).prunable()

    def record(self, change: Change[StoredTensor]) -> Mapping[str, Any]:
        return {"storage": {part.name: part.form.name for part in change.parts}, "basis": [self.basis]}

    @property
    def basis(self) -> str:
        """What the numbers of tensors are chosen by: a codebook by data where there is any, else weights alone."""
        return DATA if self.storage.colours and self.context.data.calibration is not None else WEIGHTS

    def read(self, record: Mapping[str, Any]) -> Change[StoredTensor]:
        """Return the storage that a plan records; raises PlanError where the model or the data is another."""
        basis = next(iter(record.get("basis", ())), self.basis)
        if basis != self.basis:
            need = "give the calibration data it was made with" if basis == DATA else "leave calibration data out"
            raise PlanError(f"the plan stores numbers that are chosen by {basis}; {need}")
        known = {part.name: part for part in self.parts()}
        for name, form in record.get("storage", {}).items():
            if form not in FORMS:
                raise PlanError(f"the plan stores {name!r} as {form!r}, which is no form of this release")
            if name not in known or known[name].form.name != form:
                raise PlanError(
                    f"the plan stores {name!r} as {form}, which does not fit this model; apply it to the model, with the "
                    "calibration data, that it was made from"
                )
        chosen = tuple(known[name] for name in record.get("storage", {}))
        return Change(self, tuple(part for part in chosen if part not in self.barred))

    def entries(self, change: Change[StoredTensor] | None = None) -> Report:
        taken = {part.name for part in change.parts} if change is not None else set()
        return {"storage": [self._row(tensor, tensor.name in taken) for tensor in self.tensors]}

    def _row(self, tensor: StoredTensor, taken: bool) -> Report:
        row, choice = self.standing(tensor, taken), tensor.choice
        changed = taken or (tensor.form != PLAIN and tensor not in self.barred)
        return row | {
            "reason": row["reason"] or choice.reason or None,
            "form": choice.form.name if changed else "plain",
            "bytes_before": choice.before,
            "bytes_after": choice.bytes if changed else choice.before,
            "zeros": choice.zeros,
            "exact": not changed or choice.error == 0,
            "error": choice.error if changed else 0.0,
        }
