"""How often two models answer as they should when each is attacked by its own gradients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.data import Dataset
from onnxprune.data.observe import Batch, observe
from onnxprune.evidence.attacks.attacker import Attacker
from onnxprune.measure.bootstrap import paired_interval

LABELLED, OWN = "labels", "own class"


@dataclass
class RightAnswers:
    """Per figure and model the share of every sample's positions that are answered as they should be, in the order of the samples."""

    shares: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def fresh(self) -> RightAnswers:
        return RightAnswers()

    def update(self, seen: dict[str, np.ndarray]) -> None:
        for name, right in seen.items():
            self.shares.setdefault(name, []).append(right.mean(axis=1))

    def merge(self, other: RightAnswers) -> None:
        for name, parts in other.shares.items():
            self.shares.setdefault(name, []).extend(parts)

    def __getitem__(self, name: str) -> np.ndarray:
        return np.concatenate(self.shares[name])


@dataclass(frozen=True)
class _Duel:
    """Two models, each shown rows and what its own gradients make of them; ``labelled``: labels are what is attacked, else its own class."""

    before: Attacker
    after: Attacker
    labelled: bool

    def look(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return bool[samples, positions] by figure: a row counts as robust where the row itself and the attacked one are answered so."""
        reference = self.before.chosen(batch.inputs)
        labels = batch.labels.reshape(reference.shape) if self.labelled and batch.labels is not None else None
        found = {}
        for name, model in (("before", self.before), ("after", self.after)):
            clean = model.chosen(batch.inputs)
            hit = model.chosen(model.attacked(batch, clean if labels is None else labels))
            for what, wanted in (("agreement", reference), ("accuracy", labels)):
                if wanted is not None:
                    found[f"{name}:clean_{what}"] = clean == wanted
                    found[f"{name}:robust_{what}"] = (clean == wanted) & (hit == wanted)
        return found


def robustness(before: Attacker, after: Attacker, dataset: Dataset) -> dict[str, Any]:
    """Return the report's entry: clean and robust agreement with the original's class, and with labels the accuracy, of both models."""
    means = before.means
    inputs, labels = next(dataset.labelled(means.batch))
    shape = before.chosen(inputs).shape
    labelled = labels is not None and labels.size == np.prod(shape) and labels.dtype.kind in "iu"
    duel = _Duel(before, after, labelled)
    (found,) = observe(duel.look, dataset, [RightAnswers()], means, "attacking")
    entry: dict[str, Any] = before.attack.to_json() | {
        "input": before.name,
        "range": np.stack([before.low.reshape(-1), before.high.reshape(-1)], axis=1).tolist(),
        "against": LABELLED if labelled else OWN,
        "samples": len(found["before:clean_agreement"]),
    }
    for name in ("before", "after"):
        entry[name] = {key.partition(":")[2]: float(found[key].mean()) for key in found.shares if key.startswith(name)}
    what = "accuracy" if labelled else "agreement"
    low, high = paired_interval(found[f"before:robust_{what}"], found[f"after:robust_{what}"])
    return entry | {
        "judged": f"robust_{what}",
        "drop": entry["before"][f"robust_{what}"] - entry["after"][f"robust_{what}"],
        "interval": [low, high],
    }
