"""How to train: length, losses, optimiser and its settings, in one value."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from onnxprune.errors import UsageError
from onnxprune.recover.augment import AUGMENTATIONS
from onnxprune.recover.objective import LOSSES
from onnxprune.recover.optimisers import OPTIMISERS

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Recipe:
    """Stop after ``steps`` or, where that is 0, after ``seconds``.

    ``loss``: see ``LOSSES``; by blocks every block takes so many steps, or its part of the time. ``label_weight``: share of the task loss where labels are given. ``learning_rate`` None:
    the optimiser's own default. ``warm_up``: share of the training in which the rate rises; it then falls along a
    cosine. ``clip``: largest norm of all gradients together. ``weight_decay``: per step and unit of rate, of all but
    vectors.
    """

    steps: int = 0
    seconds: float = 0.0
    loss: str = "auto"
    label_weight: float = 0.5
    temperature: float = 4.0
    hints: float = 0.0
    optimiser: str = "adam"
    learning_rate: float | None = None
    batch: int = 64
    warm_up: float = 0.05
    clip: float = 1.0
    weight_decay: float = 0.0
    augment: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UsageError for what makes no sense."""
        for registry, names in ((LOSSES, [self.loss]), (OPTIMISERS, [self.optimiser]), (AUGMENTATIONS, self.augment)):
            for name in names:
                registry[name]
        if bool(self.steps) == bool(self.seconds) or self.steps < 0 or self.seconds < 0:
            raise UsageError("recovery stops after a number of steps or after a time: give one of them, above zero")
        if self.by_blocks and self.augment:
            raise UsageError("recovery by blocks sees what the blocks read once, as it is; leave augmentation out")
        limits = {"batch": 1, "temperature": 0, "clip": 0, "label_weight": 0, "warm_up": 0, "weight_decay": 0}
        for name, least in limits.items():
            if not getattr(self, name) >= least:
                raise UsageError(f"{name} {getattr(self, name)}: give a number of at least {least}")
        if not 0 < self.rate < math.inf:
            raise UsageError(f"learning rate {self.learning_rate}: give a number above zero, such as 0.001")

    @property
    def by_blocks(self) -> bool:
        """Whether blocks are trained one after the other instead of the whole model at once."""
        return self.loss == "blocks"

    @property
    def outer_loss(self) -> str:
        """What the outputs of the whole model are judged by."""
        return "auto" if self.by_blocks else self.loss

    @property
    def rate(self) -> float:
        """The largest learning rate."""
        return OPTIMISERS[self.optimiser].rate if self.learning_rate is None else self.learning_rate

    def rate_at(self, share: float) -> float:
        """Return the learning rate once ``share`` of the training is done: a linear rise, then half a cosine to zero.

        Source: Loshchilov and Hutter 2017, "SGDR", eq. 5, without restarts.
        """
        if share < self.warm_up:
            return self.rate * share / self.warm_up
        rest = (share - self.warm_up) / max(1 - self.warm_up, 1e-12)
        return self.rate * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))


def parse_length(text: str | int) -> dict[str, float | int]:
    """Read ``200`` (steps), ``90s``, ``5m`` or ``1h`` as the fields of a Recipe; raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(text).strip().lower())
    number = float(match[1]) if match and len(match[1]) < 20 else 0.0
    if match and match[2] and number > 0:
        return {"seconds": number * UNITS[match[2]]}
    if match and number > 0 and number == int(number):
        return {"steps": int(number)}
    raise UsageError(f"recovery {text!r}: give a number of steps such as 200, or a time such as 5m")
