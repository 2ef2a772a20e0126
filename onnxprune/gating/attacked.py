"""Lessons in which the second half of all rows is attacked, and has to be answered as the original answers these rows as they are."""

from __future__ import annotations

import numpy as np

from onnxprune.data import Feed
from onnxprune.data.observe import Batch
from onnxprune.evidence.attacks.attacker import Attacked
from onnxprune.means import Means
from onnxprune.model.runtime import Arrays
from onnxprune.recover.lessons import Part, Teaching, WholeModel
from onnxprune.recover.recipe import Recipe


class HalfAttacked(WholeModel):
    """Lessons for all of a model, with rows near those of the data that the original no longer answers as it did.

    Madaan, Shin and Hwang 2020, "Adversarial Neural Pruning with Latent Vulnerability Suppression", section 4, where masks are trained on
    rows that are attacked by the network as it is by then.
    """

    def __init__(self, attacked: Attacked, teaching: Teaching, recipe: Recipe, means: Means = Means()):
        super().__init__(teaching, recipe, means)
        self.attacked, self.seen = attacked, 0

    def parts(self, batch: Arrays) -> list[Part]:
        return [self._half(part) for part in super().parts(batch)]

    def _half(self, part: Part) -> Part:
        name, half = self.attacked.attacker.name, part.rows // 2
        inputs = {own: part.feed[own] for own in self.teacher.inputs}
        rows = np.arange(self.seen, self.seen + part.rows)
        self.seen += part.rows
        changed = self.attacked(Batch(Feed(inputs, rows), None, int(rows[0]), part.rows)).inputs[name]
        return Part({**part.feed, name: np.concatenate([inputs[name][:half], changed[half:]])}, part.rows)
