"""A whole recovery: hold data out, train, and return the best of what was found, never a worse model."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnxprune.data import Dataset
from onnxprune.data.repeated import held_out
from onnxprune.means import Means
from onnxprune.measure.outputs import Outputs
from onnxprune.model.read import Model
from onnxprune.recover import checkpoint as file
from onnxprune.recover.blocks import BlockTraining
from onnxprune.recover.hints import Positions, hinted
from onnxprune.recover.lessons import Arrays, Teaching, WholeModel
from onnxprune.recover.parameters import to_train, trainable
from onnxprune.recover.recipe import Recipe
from onnxprune.recover.statistics import with_statistics
from onnxprune.recover.train import Training

HELD_OUT, MOST_HELD_OUT = 0.125, 512  # share of the data to judge by, rows at most

NOTHING_FINITE = (
    "nothing was trained: no step of the recovery had finite gradients; look for data rows that make values of the model NaN "
    "or infinite, or at its float16 range"
)


@dataclass(frozen=True)
class Recovered:
    """The model and how it came about; ``before`` and ``after``: the held-out loss.

    ``kept``: trained, trained+statistics, or original where training made nothing better. ``went_back``: how often it
    diverged. ``labels``: whether the task loss took part. ``held_out``: whether what judged was not trained on.
    ``left_out``: what was not trained, with the reason.
    """

    model: Model
    steps: int
    seconds: float
    before: float
    after: float
    kept: str
    went_back: int
    labels: bool
    held_out: bool = True
    left_out: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "model"}


def taught(
    original: Model, dataset: Dataset, seed: int = 0, *, judge: Dataset | None = None, outputs: Outputs | None = None
) -> Teaching:
    """Return what there is to teach; without ``judge`` an eighth of ``dataset``, at most 512 rows, judges and is not trained on."""
    rest, judge = (dataset, judge) if judge else split_judge(dataset, seed)
    return Teaching(original, rest, judge, outputs)


def recover(
    pruned: Model,
    teaching: Teaching,
    recipe: Recipe,
    means: Means = Means(),
    *,
    masks: Arrays | None = None,
    positions: Positions = lambda value: {},
    checkpoint: Path | None = None,
) -> Recovered:
    """Train the weights of ``pruned`` to bring the outputs of an original back; never return a worse model.

    ``masks``: parameter -> bool of its shape; where False the weight stays zero. ``positions``: value of the original ->
    axis -> what is left of it, to train by blocks. ``checkpoint``: file to keep the state in, and to go on from if it is
    there. Raises ModelError where no gradient can be taken, DataError where the loss does not fit the data.
    """
    rest, judge, original = teaching.dataset, teaching.judge, teaching.original
    lessons = WholeModel(teaching, recipe, means, _hints(pruned, teaching, recipe, positions))
    training: Training | BlockTraining
    if recipe.by_blocks:
        training = BlockTraining(pruned, lessons, positions, masks)
    else:
        found = trainable(pruned) if recipe.loss == "labels" else to_train(pruned, original, masks or ())
        training = Training(pruned, found, lessons, recipe, means, masks)
    digest = _digest(original, pruned, (rest, judge), recipe) if checkpoint else ""
    if checkpoint and checkpoint.exists():
        training.restore(file.read_checkpoint(checkpoint, digest, training.arrays))
    for _ in training.run():
        if checkpoint:
            file.write(checkpoint, digest, training.state, training.arrays)
    return replace(_best(training, lessons), held_out=judge is not rest)


def _hints(pruned: Model, teaching: Teaching, recipe: Recipe, positions: Positions) -> tuple[str, ...]:
    """Return the inner values that the pruned model is to give as the original does; none where labels alone are learnt from."""
    if not recipe.hints or recipe.loss not in ("auto", "distill"):
        return ()
    first = next(teaching.dataset.batches(1))
    return hinted(pruned, teaching.original, positions, {name: np.shape(array) for name, array in first.items()})


def split_judge(dataset: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """Return (what to train on, what to judge by)."""
    return held_out(dataset, HELD_OUT, MOST_HELD_OUT, seed)


def _digest(original: Model, pruned: Model, data: Sequence[Dataset], recipe: Recipe) -> str:
    parts = (original.identity, pruned.identity)
    return hashlib.sha256(repr((*parts, *(part.digest() for part in data), recipe)).encode()).hexdigest()


def _best(training: Training | BlockTraining, lessons: WholeModel) -> Recovered:
    """Return the best of: the model as it was, the best weights, these with statistics taken anew."""
    start, at = time.perf_counter(), training.at
    found = {"original": (at.before, training.pruned)}
    if (trained := training.trained) is not None:
        found["trained"] = (at.best, trained)
        fresh = with_statistics(trained, lessons.fit.batches(lessons.recipe.rows), lessons.means)
        if fresh is not trained:
            found["trained+statistics"] = (lessons.score(fresh), fresh)
    kept = min(found, key=lambda name: found[name][0])
    seconds = round(at.seconds + time.perf_counter() - start, 3)
    after, model = found[kept]
    left_out = tuple(training.left_out) if isinstance(training, BlockTraining) else ()
    if 0 < at.steps <= at.not_finite:
        left_out += (NOTHING_FINITE,)
    labels = bool(lessons.objective.classes)
    return Recovered(
        model, at.steps, seconds, at.before, after, kept, at.went_back, labels, left_out=left_out
    )  # fmt: skip
