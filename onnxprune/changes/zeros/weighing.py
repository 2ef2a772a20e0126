"""What is known of weights before any is refitted: their scores, by the criterion of the settings, and the share of zeros of each layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxprune.changes.context import Context
from onnxprune.changes.zeros.earlier import TRAVEL_SCORES, earlier_model
from onnxprune.changes.zeros.gradients import GRADIENT_SCORES, gradient_scores
from onnxprune.changes.zeros.layers import WeightLayer
from onnxprune.changes.zeros.learned import LEARNED_SCORES, learned_scores
from onnxprune.changes.zeros.patterns import Pattern, parse_pattern
from onnxprune.changes.zeros.scores import SCORES, WeightScore
from onnxprune.changes.zeros.sensitivity import shares_by_error
from onnxprune.changes.zeros.spreads import SPREADS, shares_by_size, shares_of_layers
from onnxprune.coupling.groups import Analysis
from onnxprune.errors import DataError
from onnxprune.model.graph import Graph
from onnxprune.model.model import Model
from onnxprune.settings import AUTO, BY_ERROR

BLIND = "class-blind"


class WeightScores:
    """Scores of the weights of ``layers``, by weights alone, their gradients, the way they came, or masks that were trained; those that look at what is read are ``by_data``."""

    def __init__(self, layers: Sequence[WeightLayer], analysis: Analysis, context: Context):
        self.layers, self.analysis, self.context = layers, analysis, context
        self.name = context.settings.criterion

    @property
    def by_data(self) -> WeightScore | None:
        """The criterion, where it looks at what layers read."""
        scored = SCORES.get(self.name)
        return scored if scored is not None and scored.data else None

    @property
    def decide(self) -> bool:
        """Whether the scores say which weights stay, and no fit does; raises DataError where they look at data and there is none."""
        named = self.name in {*SCORES, *GRADIENT_SCORES, *TRAVEL_SCORES, *LEARNED_SCORES}
        if self.by_data is not None and self.context.data.calibration is None:
            raise DataError(f"criterion {self.name!r} looks at data; give calibration data (--calib)")
        return self.by_data is None and (named or self.context.data.calibration is None)

    @property
    def trained(self) -> bool:
        """Whether masks are trained."""
        return self.name in LEARNED_SCORES

    @property
    def earlier(self) -> Model:
        """The model of which the result has the weights."""
        return self.context.once("earlier", lambda: earlier_model(self.context))

    def of(self, layer: WeightLayer) -> np.ndarray:
        """Return float64[groups, o, d]; sizes, where the criterion looks at data."""
        if self.name in GRADIENT_SCORES:
            known = self.context.once(
                f"gradients {self.name}", lambda: gradient_scores(self.layers, self.analysis.facts, self.context)
            )
            if layer.name in known:
                return known[layer.name]
        if self.trained and layer.name in self._learned:
            return self._learned[layer.name]
        weight = layer.matrix(self.analysis.facts.content(layer.name))
        if self.name in TRAVEL_SCORES:
            return TRAVEL_SCORES[self.name].of(weight, layer.matrix(contents(self.earlier)(layer.name)))
        scored = SCORES.get(self.name)
        return (scored if scored is not None and not scored.data else SCORES["l1"]).of(weight, None)

    def shares(self, layers: Sequence[WeightLayer], pattern: Pattern) -> dict[str, float]:
        """Return the share of zeros of each of some layers, as the scope of the settings says; a pattern of neighbours says it itself."""
        if pattern.of is None and self._scope == "global":
            scores = {layer.name: self.of(layer) for layer in layers}
            return shares_of_layers(scores, pattern, self.context.settings.threshold)
        return self._fixed_shares(layers, pattern)

    @property
    def _scope(self) -> str:
        settings = self.context.settings
        return "global" if settings.scope == AUTO and settings.threshold != BLIND else settings.scope

    def _fixed_shares(self, layers: Sequence[WeightLayer], pattern: Pattern) -> dict[str, float]:
        """Return the share of zeros of each layer where no scores decide it."""
        scope = self._scope
        if pattern.of is None and scope in SPREADS:
            return shares_by_size(layers, pattern.share, scope)
        if pattern.of is None and scope == BY_ERROR:
            with self.context.stages("shares"):
                return shares_by_error(layers, pattern, self.analysis, self.context)
        return dict.fromkeys((layer.name for layer in layers), pattern.share)

    @property
    def _learned(self) -> Mapping[str, np.ndarray]:
        """The scores of the criterion, trained once."""
        pattern, threshold = parse_pattern(self.context.settings.pattern), self.context.settings.threshold
        known = {layer.name: layer for layer in self.layers if not pattern.misfit(layer.shape, layer.inputs)}

        def decided(scores: Mapping[str, np.ndarray], way: float) -> dict[str, np.ndarray]:
            if pattern.of is not None:
                return {n: pattern.kept(s) if way == 1 else np.ones(s.shape, bool) for n, s in scores.items()}
            if self._scope == "global":
                shares = shares_of_layers(scores, replace(pattern, share=way * pattern.share), threshold)
            else:
                shares = {name: way * share for name, share in fixed.items()}
            return {name: pattern.kept(array, shares[name]) for name, array in scores.items()}

        def trained() -> Mapping[str, np.ndarray]:
            return learned_scores(list(known.values()), self.analysis.facts.model, decided, self.context)

        fixed = {} if self._scope == "global" else self._fixed_shares(list(known.values()), pattern)
        return self.context.once(f"trained {self.name}", trained)


def contents(model: Model) -> Callable[[str], np.ndarray]:
    """Return what reads the stored tensors of a model by name, those that nodes hold too."""
    tensors = Graph(model.structure).tensors
    return lambda name: model.array(tensors[name])
