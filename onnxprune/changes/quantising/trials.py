"""Recipes tried one after the other on rows held out, each against the float model: the plain one first, then what may be better."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onnxprune.changes.context import FITTED, Context
from onnxprune.changes.quantising.able import kept_float
from onnxprune.changes.quantising.correcting import bias_corrected
from onnxprune.changes.quantising.floats import FloatForms
from onnxprune.changes.quantising.nearness import weight_error
from onnxprune.changes.quantising.recipes import BY_HAND, INT8, PER_CHANNEL_SINCE, PLAIN_RECIPES, ROUNDS, QuantRecipe
from onnxprune.data.dataset import Dataset
from onnxprune.data.repeated import can_hold_out, held_out, in_batches
from onnxprune.errors import ModelError
from onnxprune.measure.divergence import Reference
from onnxprune.measure.outputs import Outputs
from onnxprune.measure.tasks.choice import Judged
from onnxprune.model.facts import Facts
from onnxprune.model.graph import Graph
from onnxprune.model.memory import ONE_RUN, USUAL_ROWS, room, tensor_bytes
from onnxprune.model.model import Model
from onnxprune.model.quantiser import Quantiser
from onnxprune.model.runtime import session
from onnxprune.search import HELD_OUT, JUDGE

ROWS = 256
"""Calibration rows by which ranges and means are found, at most."""
NEAR = 1.05
"""Times the least distance within which recipes are as near: the one that keeps most of the task is taken of these."""
REPLAYED = "the plan names it"


@dataclass(frozen=True)
class TriedRecipe:
    """``judged``: how far the model is from the float one (None: it was not judged, ``reason`` says why)."""

    recipe: QuantRecipe
    judged: Judged | None = None
    reason: str = ""


@dataclass(frozen=True)
class QuantChoice:
    """``floats``: the model before its numbers became 8 bits, prepared and equalised; ``quantised``: what it is then.

    ``tried``: every recipe; ``rows``: how many found ranges, and how many judged.
    """

    recipe: QuantRecipe
    floats: Model
    quantised: Model
    tried: tuple[TriedRecipe, ...]
    rows: tuple[int, int] = (0, 0)
    equalised: tuple[str, ...] = ()


@dataclass
class RecipeTrials:
    """Trials on one float model, ``base``; raises ModelError where ONNX Runtime's quantiser takes it by no recipe.

    ``kept``: names by which nodes are known that stay float.
    """

    context: Context
    base: Model
    mode: str
    kept: frozenset[str] = frozenset()
    tried: dict[QuantRecipe, TriedRecipe] = field(default_factory=dict)

    def __post_init__(self) -> None:
        data, seed = self.context.data.calibration, self.context.settings.seed
        self.fit: Dataset | None = None
        self.reference: Reference | None = None
        self.rows = (0, 0)
        if data is not None:
            share = max(HELD_OUT, 1 - ROWS / len(data))  # all but those that are enough for ranges
            fit, judge = held_out(data, share, JUDGE, seed)
            self.fit = fit.take(ROWS, seed)
            self.rows = len(self.fit), len(judge)
            self._batches = in_batches(judge, self.context.facts, self.context.means)
            if not can_hold_out(data, share, JUDGE):
                self.context.notes.warn(FITTED.format("the quantised model was", len(data)))
        self.floats = FloatForms(self.context, self.base, self.fit)
        self._ranges: dict[tuple[str, str, bool], Any] = {}

    def chosen(self) -> QuantChoice:
        """Return the recipe of least loss, of those tried round by round."""
        with ExitStack() as self._open:
            self._quantisers: dict[str, Quantiser] = {}
            best = self._try(PLAIN_RECIPES[self.mode])
            for further in ROUNDS[self.mode]:
                for recipe in further(best):
                    self._try(recipe)
                best = self._best() if any(tried.judged for tried in self.tried.values()) else best
            if self.mode == INT8:
                self._try(BY_HAND)
            return self._choice(self._best())

    def replayed(self, recipe: QuantRecipe) -> QuantChoice:
        """Return what a recipe gives, without a choice."""
        with ExitStack() as self._open:
            self._quantisers = {}
            self.tried[recipe] = TriedRecipe(recipe, None, REPLAYED)
            return self._choice(recipe)

    def _choice(self, recipe: QuantRecipe) -> QuantChoice:
        floats = self.floats.of(recipe.equalised)
        made = self.quantised(recipe)
        return QuantChoice(
            recipe, floats, made, tuple(self.tried.values()), self.rows, self.floats.equalised(recipe.equalised)
        )

    def _best(self) -> QuantRecipe:
        judged = {recipe: tried.judged for recipe, tried in self.tried.items() if tried.judged is not None}
        if not judged:
            reasons = dict.fromkeys(tried.reason for tried in self.tried.values())
            raise ModelError(
                f"{'; '.join(reasons)}; leave quantize out, or report it to ONNX Runtime with this message"
            )
        return _nearest(judged)

    def _try(self, recipe: QuantRecipe) -> QuantRecipe:
        """Make and judge a recipe, once; what cannot be made or run is remembered with the reason."""
        if recipe not in self.tried:
            self.context.stages.progress(f"quantised: {recipe.name}")
            reason = self._unfit(recipe)
            try:
                self.tried[recipe] = TriedRecipe(recipe, None if reason else self._judged(recipe), reason)
            except ModelError as error:
                self.tried[recipe] = TriedRecipe(recipe, None, str(error))
        return recipe

    def _unfit(self, recipe: QuantRecipe) -> str:
        """Return why a recipe is not for this model ("": it is)."""
        opset = self.context.facts.graph.versions.get("", 1)
        if recipe.how.per_channel and recipe.method and opset < PER_CHANNEL_SINCE:
            return f"a scale per channel needs opset {PER_CHANNEL_SINCE}, and the file is of opset {opset}"
        return self.floats.unfit(recipe.equalised)

    def _judged(self, recipe: QuantRecipe) -> Judged:
        made = self.quantised(recipe)
        if self.fit is not None:
            if self.reference is None:
                outputs = _seen_in(self.context.outputs, made)
                self.reference = Reference(self.base, self._batches, self.context.means.quiet, outputs=outputs)
            return self.reference.judged(made)
        session(made, threads=self.context.settings.threads)  # what cannot be loaded is not chosen
        return Judged(weight_error(self.floats.of(recipe.equalised), made))

    # --- making them ------------------------------------------------------------------------------------------------

    def quantised(self, recipe: QuantRecipe) -> Model:
        """Return the model by a recipe; raises ModelError."""
        own = self._quantiser(recipe.equalised)
        if not recipe.method:
            return own.dynamic(recipe.how)
        if recipe.corrected:
            return self._corrected(recipe)
        return own.static(recipe.how, self._ranges_of(recipe))

    def _corrected(self, recipe: QuantRecipe) -> Model:
        """Return the model whose biases make up for the rounding of weights by the same recipe; ranges are the same."""
        floats, threads = self.floats.of(recipe.equalised), self.context.settings.threads
        rounded = self.quantised(replace(recipe, corrected=False))
        with self._opened(bias_corrected(floats, rounded, self._feeds(), threads)) as own:
            return own.static(recipe.how, self._ranges_of(recipe))

    def _quantiser(self, equalised: str) -> Quantiser:
        if equalised not in self._quantisers:
            own = self._opened(self.floats.of(equalised))
            self._quantisers[equalised] = self._open.enter_context(own)
        return self._quantisers[equalised]

    def _opened(self, floats: Model) -> Quantiser:
        return Quantiser(floats, self.context.settings.threads, kept_float(Graph(floats.structure), self.kept))

    def _ranges_of(self, recipe: QuantRecipe) -> Any:
        key = recipe.equalised, recipe.method, recipe.how.products
        if key not in self._ranges:
            self._ranges[key] = self._quantiser(recipe.equalised).ranges(
                recipe.method, self._feeds(), products=recipe.how.products
            )
        return self._ranges[key]

    def _feeds(self) -> Iterator[Mapping[str, np.ndarray]]:
        assert self.fit is not None, "what needs ranges is refused without data"
        yield from self.fit.batches(None, rows_of_all(self.context.facts, self.context))


def _nearest(judged: Mapping[QuantRecipe, Judged]) -> QuantRecipe:
    """Return the recipe that is nearest to the float model: by distance, which tells such small changes apart on fewer rows than the task."""
    costs = {recipe: recipe.handicap * found.cost for recipe, found in judged.items()}
    able = [recipe for recipe, cost in costs.items() if cost <= NEAR * min(costs.values())]
    return max(able, key=lambda recipe: (judged[recipe].score or 0.0, -costs[recipe]))


def _seen_in(outputs: Outputs | None, model: Model) -> Outputs | None:
    """Return how outputs are compared, without the values inside that a quantised model does not have any more."""
    if outputs is None or not outputs.inner:
        return outputs
    made = {name for node in model.structure.graph.node for name in node.output}
    inner = tuple(name for name in outputs.inner if name in made)
    of = {name: one for name, one in outputs.of.items() if name in inner or name not in outputs.inner}
    return replace(outputs, of=of, inner=inner) if of else None


def rows_of_all(facts: Facts, context: Context) -> int:
    """Return on how many rows at a time a model is run where all its values are looked at: what takes ``ONE_RUN`` bytes, one at least."""
    values = (name for node in facts.graph.top for name in node.outputs if name and name not in facts.constants)
    shapes = {name: facts.shape(name) for name in values}
    size = sum(tensor_bytes(facts.dtype(name), shape) for name, shape in shapes.items() if shape is not None)
    per_row = max(size // max(facts.batch, 1), 1)
    wanted = context.settings.batch or USUAL_ROWS
    return min(max(room(context.means, ONE_RUN) // per_row, 1), wanted)
