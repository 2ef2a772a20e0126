"""How to train: length, losses, optimiser and its settings, in one value."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from onnxprune.errors import UsageError
from onnxprune.recover.augment import AUGMENTATIONS, AUTO, NONE
from onnxprune.recover.objective import LOSSES
from onnxprune.recover.optimisers import OPTIMISERS

ROWS = 64
"""Of a step, where nothing says otherwise."""

STEPS, LEAST_ROWS = 1024, 4
"""So many steps a training that ends by time is to have: steps take fewer rows where rows are slow, down to the least."""

RATE_PER_STEP, RATES = 1.25e-6, (3e-4, 1.5e-3)
"""The largest learning rate of Adam grows with the number of steps that the training has, between two ends."""

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Recipe:
    """Stop after ``steps`` or, where that is 0, after ``seconds``.

    ``loss``: see ``LOSSES``; by blocks every block takes so many steps, or its part of the time. ``label_weight``: share of the task loss where labels are given. ``learning_rate`` None:
    the optimiser's own default, for Adam by the number of steps. ``batch`` None: 64 rows a step, or in a given time as many as leave
    enough steps. ``warm_up``: share of the training in which the rate rises; it then falls along a
    cosine. ``clip``: largest norm of all gradients together. ``weight_decay``: per step and unit of rate, of all but
    vectors. ``hints``: how much inner values count beside the outputs; the original is then run at every step, and after a repair as
    many more steps without them were worth as much or more on five trained models. ``augment``: see ``harmless``.
    """

    steps: int = 0
    seconds: float = 0.0
    loss: str = "auto"
    label_weight: float = 0.5
    temperature: float = 4.0
    hints: float = 0.0
    optimiser: str = "adam"
    learning_rate: float | None = None
    batch: int | None = None
    warm_up: float = 0.05
    clip: float = 1.0
    weight_decay: float = 0.0
    augment: tuple[str, ...] = (AUTO,)
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UsageError for what makes no sense."""
        for registry, names in (
            (LOSSES, [self.loss]),
            (OPTIMISERS, [self.optimiser]),
            (AUGMENTATIONS, set(self.augment) - {AUTO, NONE}),
        ):
            for name in names:
                registry[name]
        if bool(self.steps) == bool(self.seconds) or self.steps < 0 or self.seconds < 0:
            raise UsageError("recovery stops after a number of steps or after a time: give one of them, above zero")
        if self.by_blocks and set(self.augment) - {AUTO, NONE}:
            raise UsageError("recovery by blocks sees what the blocks read once, as it is; leave augmentation out")
        limits = {"batch": 1, "temperature": 0, "clip": 0, "label_weight": 0, "warm_up": 0, "weight_decay": 0}
        for name, least in limits.items():
            if getattr(self, name) is not None and not getattr(self, name) >= least:
                raise UsageError(f"{name} {getattr(self, name)}: give a number of at least {least}")
        if not 0 < self.rate(1) < math.inf:
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
    def rows(self) -> int:
        """How many rows a step has where time does not tell."""
        return self.batch or ROWS

    def affordable(self, seconds: float) -> int:
        """Return how many rows a step can have, a power of two, where each takes so many ``seconds``."""
        if self.batch or not self.seconds:
            return self.rows
        fit = self.seconds / (STEPS * max(seconds, 1e-9))
        return int(min(max(2 ** math.floor(math.log2(fit)), LEAST_ROWS), ROWS))

    def rate(self, steps: float) -> float:
        """The largest learning rate of a training of so many steps."""
        if self.learning_rate is not None:
            return self.learning_rate
        if self.optimiser == "adam":
            return min(max(RATE_PER_STEP * steps, RATES[0]), RATES[1])
        return OPTIMISERS[self.optimiser].rate

    def rate_at(self, share: float, steps: float | None = None) -> float:
        """Return the learning rate once ``share`` of the training is done: a linear rise, then half a cosine to zero.

        ``steps``: how many there will be (None: as the recipe says). Source: Loshchilov and Hutter 2017, "SGDR", eq. 5, without
        restarts.
        """
        peak = self.rate(self.steps if steps is None else steps)
        if share < self.warm_up:
            return peak * share / self.warm_up
        rest = (share - self.warm_up) / max(1 - self.warm_up, 1e-12)
        return peak * 0.5 * (1 + math.cos(math.pi * min(rest, 1.0)))


def parse_length(text: str | int) -> dict[str, float | int]:
    """Read ``200`` (steps), ``90s``, ``5m`` or ``1h`` as the fields of a Recipe; raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(text).strip().lower())
    number = float(match[1]) if match and len(match[1]) < 20 else 0.0
    if match and match[2] and number > 0:
        return {"seconds": number * UNITS[match[2]]}
    if match and number > 0 and number == int(number):
        return {"steps": int(number)}
    raise UsageError(f"recovery {text!r}: give a number of steps such as 200, or a time such as 5m")
