"""The float model in the forms that are quantised: prepared by ONNX Runtime, and equalised; each proven to compute the same."""

from __future__ import annotations

from onnxprune.changes.context import Context
from onnxprune.data.dataset import Dataset
from onnxprune.errors import ModelError
from onnxprune.model.model import Model
from onnxprune.model.quantiser import fused


class FloatForms:
    """``of(equalised)``: the model in one of these forms, made once."""

    def __init__(self, context: Context, base: Model, fit: Dataset | None):
        self.context, self.fit = context, fit
        self._forms = {"": self._prepared(base)}
        self._equalised: dict[str, tuple[str, ...]] = {}

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
        return self._forms[equalised]

    def equalised(self, by: str) -> tuple[str, ...]:
        """Return the groups whose channels were made alike."""
        return self._equalised.get(by, ())

    def unfit(self, by: str) -> str:
        """Return why there is no such form ("": there is)."""
        return "" if by in self._forms else "not yet"
