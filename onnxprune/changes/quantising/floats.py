"""The float model in the forms that are quantised: prepared by ONNX Runtime, and equalised; each proven to compute the same."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.changes.analysing import facts_of
from onnxprune.changes.context import Context
from onnxprune.changes.quantising.equalising import rescaled, scales_by
from onnxprune.coupling.groups import analyse
from onnxprune.data.dataset import Dataset
from onnxprune.errors import ModelError
from onnxprune.model.model import Model
from onnxprune.model.quantiser import fused
from onnxprune.proof.check import bisect

NOT_EQUALISED = "no channels between layers can be scaled, or all are alike"


class FloatForms:
    """``of(equalised)``: the model in one of these forms, made once."""

    def __init__(self, context: Context, base: Model, fit: Dataset | None):
        self.context, self.fit = context, fit
        self._forms = {"": self._prepared(base)}
        self._groups: dict[str, tuple[str, ...]] = {}

    def _prepared(self, base: Model) -> Model:
        """Return the model with its norms folded in; the model itself where that fails or is not exact."""
        try:
            small = fused(base)
            check = self.context.prover.compare(base, small, None)
        except ModelError as error:
            self.context.notes.warn(f"{error}: quantised without norms folded into convolutions")
            return base
        if not check.agrees:
            self.context.notes.warn(
                f"norms are not folded into convolutions before they are quantised: that is not exact ({check.problem})"
            )
            return base
        return small

    def of(self, equalised: str) -> Model:
        """Return the model in a form; one that is not fit is the plain one."""
        if equalised not in self._forms:
            self._forms[equalised] = self._alike(equalised)
        return self._forms[equalised]

    def equalised(self, by: str) -> tuple[str, ...]:
        """Return the groups whose channels were made alike."""
        self.of(by)
        return self._groups.get(by, ())

    def unfit(self, by: str) -> str:
        """Return why there is no such form ("": there is)."""
        return NOT_EQUALISED if by and not self.equalised(by) else ""

    def _alike(self, by: str) -> Model:
        """Return the model with channels made alike, those groups aside with which it does not compute the same."""
        context, plain = self.context, self._forms[""]
        analysis = analyse(facts_of(plain, context.settings))
        scales = scales_by(by, analysis, self.fit, context.means)

        def differs(some: Sequence[int]) -> bool:
            return not context.prover.compare(plain, rescaled(analysis, scales, some), None).agrees

        wrong = set(bisect(list(scales), differs))
        chosen = [index for index in scales if index not in wrong]
        self._groups[by] = tuple(analysis.groups[index].name for index in chosen)
        return rescaled(analysis, scales, chosen)
