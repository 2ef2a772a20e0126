"""How a model may be quantised: what ONNX Runtime's quantiser is asked for, and what is done to the float model before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import prod

from onnxprune.model.quantiser import METHODS, Rounding8

INT8, DYNAMIC = "int8", "dynamic"
EQUALISED = ("", "weights", "values")
"""By what channels between layers are made alike before: not at all, by the weights on both sides, or by values and the weights that read them."""


@dataclass(frozen=True)
class QuantRecipe:
    """``method``: how ranges are found ("" where values are quantised as they come); ``how``: what becomes 8 bits and how.

    ``equalised``: one of EQUALISED; ``corrected``: whether biases make up for the mean of what rounding weights changes.
    """

    method: str = METHODS[0]
    how: Rounding8 = field(default_factory=Rounding8)
    equalised: str = ""
    corrected: bool = False

    @property
    def name(self) -> str:
        """What plans and reports call it."""
        kind = "int8" if self.how.signed else "uint8"
        weights = "weights per channel" if self.how.per_channel else "weights per tensor"
        values = f"{kind} values{' about zero' if self.how.symmetric else ''}"
        values = f"{values}, nodes with weights alone" if self.how.products else values
        parts = [self.method, weights, values] if self.method else [weights, f"{kind} weights"]
        parts += [f"equalised by {self.equalised}"] if self.equalised else []
        return ", ".join([*parts, *(["biases corrected"] if self.corrected else [])])

    @property
    def handicap(self) -> float:
        """The factor by which it has to be nearer than others to be taken."""
        slow = (factor for name, factor in SLOWER_BY.items() if getattr(self.how, name)) if self.method else ()
        return prod(slow)

    def rounded(self, **changes: bool) -> QuantRecipe:
        return replace(self, how=self.how._replace(**changes))


BY_HAND = QuantRecipe(how=Rounding8(signed=True))
"""What ``quantize_static`` does where nothing else is said."""
PLAIN_RECIPES = {INT8: QuantRecipe(), DYNAMIC: QuantRecipe("", Rounding8(signed=True))}
"""Mode -> where the choice begins. The grids of ``int8`` are those of BY_HAND, whose integers are 128 less: kernels of x86 are slower there."""
Round = Callable[[QuantRecipe], Sequence[QuantRecipe]]
ROUNDS: dict[str, tuple[Round, ...]] = {
    INT8: (
        lambda best: [best.rounded(per_channel=True)],
        lambda best: [best.rounded(products=True)],
        lambda best: [replace(best, method=method) for method in METHODS[1:]],
        lambda best: [best.rounded(symmetric=True)],
        lambda best: [replace(best, equalised=by) for by in EQUALISED[1:]],
        lambda best: [replace(best, corrected=True)],
        lambda best: [
            *(replace(best, method=method) for method in METHODS),
            *(replace(best, equalised=by) for by in EQUALISED),
            best.rounded(per_channel=not best.how.per_channel),
        ],
    ),
    DYNAMIC: (
        lambda best: [best.rounded(per_channel=True)],
        lambda best: [best.rounded(signed=False), QuantRecipe("", Rounding8())],
    ),
}
"""Mode -> what is tried beside the best so far, round by round."""
BY_NAME = {
    recipe.name: recipe
    for method, by, corrected in product((*METHODS, ""), EQUALISED, (False, True))
    for flags in product((True, False), repeat=len(Rounding8._fields))
    for recipe in (QuantRecipe(method, Rounding8(*flags), by, corrected),)
}
SLOWER_BY = {"signed": 1.25, "products": 2.0}
"""What makes a static model slower -> the factor by which it has to be nearer to be taken: kernels of int8 values take up to three times as long
on x86, and what is between nodes with weights is computed in float."""
PER_CHANNEL_SINCE = 13
"""The opset from which on DequantizeLinear takes a scale per channel."""
