"""What a model is for: found from its outputs where that is safe, or as the user says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import scipy

from onnxprune.errors import UsageError
from onnxprune.measure.outputs import CLASSES, INTEGERS, PROBABILITIES, VALUES, Layout, Output, Outputs
from onnxprune.measure.tasks.heads import Dense, Levels
from onnxprune.measure.tasks.reading import Detector, Scene, head_of
from onnxprune.measure.tasks.table import TASKS
from onnxprune.measure.tasks.task import AUTO, FOUND, NAMED, NONE, Answered, Asked, Task

SURE = 0.3  # mean of the largest probability: many channels of which none is ever chosen are features
MANY = 64  # channels that are so
BLANKS = 0.4  # least share of steps at which a CTC model says nothing
SHORT = 3.0  # steps that a symbol lasts at most, on average, where symbols are texts
STEPS, PIXELS = 4, 64  # of a text, and of a map, at least
EDGE, DECIDED = 0.1, 0.8  # of a mask's pixels most are this near to 0 or 1
SPARSE = 0.5  # of a detector's places fewer show anything


@dataclass(frozen=True)
class Shown:
    """What is known of a model before its task is: its outputs, what the graph says, and what it gave for some samples.

    ``alone``: a run takes one sample; ``named``: the user named the kind of task, so that doubts do not count. ``causal``: input -> the
    outputs whose steps do not look at later ones of it.
    """

    outputs: Outputs
    layouts: Mapping[str, Layout]
    batches: Sequence[Answered]
    alone: bool = False
    named: bool = False
    options: Mapping[str, float] = field(default_factory=dict)
    causal: Mapping[str, Collection[str]] = field(default_factory=dict)

    def rows(self, how: Output) -> np.ndarray:
        """Return [samples, positions, channels] of all batches, positions of unlike numbers put one behind the other."""
        rows = [how.rows(batch.results[how.name]) for batch in self.batches]
        alike = len({part.shape[1:] for part in rows}) == 1
        return _chained(rows if alike else [rows[0].reshape(1, -1, rows[0].shape[-1])])

    def rank(self, how: Output) -> int:
        return int(np.ndim(self.batches[0].results[how.name]))

    def squashed(self, how: Output) -> bool:
        """Whether something in the graph makes values between 0 and 1, and all are."""
        return how.shares and (self.named or self.layouts.get(how.name, Layout()).shares)

    @property
    def floats(self) -> list[Output]:
        return [how for how in self.outputs.of.values() if how.kind != INTEGERS and how.name not in self.outputs.inner]

    @property
    def inputs(self) -> list[np.ndarray]:
        return [np.asarray(value) for value in self.batches[0].inputs.values()]


@dataclass(frozen=True)
class Fit:
    """How a kind of task would be read: which outputs, with which options told from them, and what tells so."""

    outputs: Sequence[Output]
    reason: str
    options: Mapping[str, float] = field(default_factory=dict)
    head: Detector | None = None
    tokens: str = ""


def task_of(asked: Asked, look: Shown) -> tuple[Task | None, str]:
    """Return the task, or None with the reason why none is known; raises UsageError where a named one cannot be read."""
    if asked.kind == NONE or not look.batches:
        return None, "it was not asked for" if asked.kind == NONE else "there are no outputs to look at"
    named = asked.kind != AUTO
    look = replace(look, named=named, options=asked.options)
    for kind in [asked.kind] if named else FITS:
        fit = FITS[kind][0](look)
        if fit is None:
            continue
        options = {**fit.options, **asked.options}
        outputs = {how.name: how for how in fit.outputs}
        task = Task(kind, outputs, options, fit.head, NAMED if named else FOUND, fit.reason, look.alone, fit.tokens)
        if named or _says_something(task, look):
            return task, fit.reason
    if named:
        raise UsageError(
            f"task {asked.kind} cannot be read from these outputs ({_shapes(look)}): it needs {FITS[asked.kind][1]}"
        )
    return None, f"the outputs ({_shapes(look)}) could mean several things"


def _says_something(task: Task, look: Shown) -> bool:
    """Whether any sample has an answer."""
    kind = TASKS[task.kind]
    answers = [kind.read(task, batch) for batch in look.batches]
    return any(bool(np.isfinite(kind.score(task, answer, answer).scores).any()) for answer in answers)


def _shapes(look: Shown) -> str:
    results = look.batches[0].results
    return ", ".join(
        f"{name} {list(np.shape(value))}" for name, value in results.items() if isinstance(value, np.ndarray)
    )


# --- kinds ------------------------------------------------------------------------------------------------------------


def _classes(look: Shown) -> Fit | None:
    found = [how for how in look.floats if how.kind in CLASSES and look.rank(how) == 2 and _chooses(look, how)]
    if not found and look.named:
        found = [how for how in look.floats if how.classes] or [how for how in look.floats if len(how.weight) > 1]
    whole = [how for how in look.outputs.of.values() if how.kind == INTEGERS and _numbers(look, how)]
    if found or not whole or look.floats:
        return Fit(found, f"{_names(found)}: one choice among classes") if found else None
    return Fit(whole, f"{_names(whole)}: class numbers")


def _numbers(look: Shown, how: Output) -> bool:
    value = look.batches[0].results[how.name]
    return bool(value.dtype in (np.int32, np.int64) and (look.named or value.ndim <= 2))


def _chooses(look: Shown, how: Output) -> bool:
    """Whether rows of many unbounded channels favour one, as classifiers do and features do not."""
    if how.unit_rows or "embed" in how.name.lower():
        return look.named
    if len(how.weight) < MANY or look.layouts.get(how.name, Layout()).scores or look.named:
        return True
    rows = look.rows(how).astype(np.float64)
    return bool(
        (rows if how.kind == PROBABILITIES else scipy.special.softmax(rows, axis=-1)).max(axis=-1).mean() >= SURE
    )


def _ctc(look: Shown) -> Fit | None:
    for how in look.floats:
        rows = look.rows(how)
        _, steps, classes = rows.shape
        if steps < STEPS or classes < 3 or not (how.classes or look.named):
            continue
        best = rows.argmax(axis=-1)
        blank = int(look.options.get("blank", np.bincount(best.ravel()).argmax()))
        share = float(np.mean(best == blank))
        reads = look.outputs.mask or any(value.dtype.kind in "iu" and value.ndim == 2 for value in look.inputs)
        spikes = share >= BLANKS and blank in (0, classes - 1) and _lasting(best, blank) <= SHORT
        if look.named or (spikes and not reads):
            return Fit(
                [how], f"{how.name}: {steps} steps, class {blank} is blank at {share:.0%} of them", {"blank": blank}
            )
    return None


def _lasting(best: np.ndarray, blank: int) -> float:
    """Return how many steps a symbol lasts on average; infinite where there is none."""
    starts = np.concatenate([np.ones((len(best), 1), bool), best[:, 1:] != best[:, :-1]], axis=1)
    symbols = best != blank
    runs = int((starts & symbols).sum())
    return float(symbols.sum()) / runs if runs else np.inf


def _sequence(look: Shown) -> Fit | None:
    found = [how for how in look.floats if how.kind in CLASSES and look.rank(how) == 3]
    if not found and look.named:
        found = [how for how in look.floats if how.classes] or [how for how in look.floats if len(how.weight) > 1]
    return Fit(found, f"{_names(found)}: a choice among classes at every step") if found else None


def _tokens(look: Shown) -> Fit | None:
    """Scores of tokens at every step, told from those before: what comes is among the classes, and later ones are not looked at."""
    for how in look.floats:
        for name, ids in look.batches[0].inputs.items():
            scores = look.batches[0].results[how.name]
            steps = ids.dtype.kind in "iu" and ids.ndim == 2 and scores.ndim == 3 and scores.shape[:2] == ids.shape
            told = steps and how.channel_axis == 2 and ids.max(initial=0) < scores.shape[2]
            if told and ids.shape[1] > 1 and how.name in look.causal.get(name, ()):
                return Fit([how], f"{how.name}: scores of the token that comes behind each of {name}", tokens=name)
    return None


def _segmentation(look: Shown) -> Fit | None:
    pictures = [value.shape[1] for value in look.inputs if value.ndim == 4]
    found = []
    for how in look.floats:
        rows = look.rows(how)
        masks = look.squashed(how) and rows.shape[-1] not in {size for size in pictures if size > 1}
        if look.rank(how) != 4 or rows.shape[1] < PIXELS:
            continue
        decided = masks and np.mean(np.abs(rows - 0.5) > 0.5 - EDGE) >= DECIDED
        if look.named or how.kind in CLASSES or decided:
            found.append(how if rows.shape[-1] == 1 or not look.named else replace(how, classes=not how.shares))
    return Fit(found, f"{_names(found)}: maps of classes or of masks") if found else None


def _embedding(look: Shown) -> Fit | None:
    able = [
        how for how in look.floats if look.rank(how) >= 2 and look.rows(how).shape[-1] * look.rows(how).shape[1] > 1
    ]
    units = [how for how in able if look.rank(how) == 2 and (how.unit_rows or "embed" in how.name.lower())]
    found = units[:1] or (able[:1] if look.named else [])
    why = "rows of length one" if found and found[0].unit_rows else "by its name"
    return Fit(found, f"{_names(found)}: {why}") if found else None


def _multilabel(look: Shown) -> Fit | None:
    found = [how for how in look.floats if how.kind == VALUES and look.squashed(how)]
    if not found and look.named:
        found = [how for how in look.floats if how.kind != INTEGERS]
    if not look.named and any(look.rank(how) == 4 for how in found):
        return None
    return Fit(found, f"{_names(found)}: values between 0 and 1 that need not sum to one") if found else None


def _regression(look: Shown) -> Fit | None:
    return Fit(look.floats, f"{_names(look.floats)}: values") if look.named and look.floats else None


def _detection(look: Shown) -> Fit | None:
    for scene in _scenes(look):
        found = head_of(scene)
        if found is not None and (look.named or _detects(look, scene, found[1])):
            name, head = found
            return Fit((), f"{name} ({', '.join(dict.fromkeys(plane.name for plane in head.planes))})", head=head)
    return None


def _scenes(look: Shown) -> list[Scene]:
    """Return what each batch shows; all in one where every output says which sample each entry is of."""
    own = [
        name
        for name, value in look.batches[0].results.items()
        if isinstance(value, np.ndarray) and name not in look.outputs.inner
    ]
    picture = next((_picture(value.shape) for value in look.inputs if value.ndim == 4), None)
    shared: dict[str, Any] = {
        "picture": picture,
        "named": look.named,
        **{n: v for n, v in look.options.items() if n in ("confidence", "objectness")},
    }
    axes = {name: look.outputs.of[name].samples_axis for name in own if name in look.outputs.of}
    if set(axes) == set(own) and None not in axes.values():
        parts = [batch.results for batch in look.batches]
        try:
            joined = {name: _chained([part[name] for part in parts], axes[name] or 0) for name in own}
        except ValueError:  # pictures of unlike sizes
            joined = {name: parts[0][name] for name in own}
        return [Scene(joined, look.outputs.of, joined[own[0]].shape[axes[own[0]] or 0], **shared)]
    return [
        Scene({name: batch.results[name] for name in own}, look.outputs.of, _samples(look, batch), **shared)
        for batch in look.batches
    ]


def _chained(parts: Sequence[np.ndarray], axis: int = 0) -> np.ndarray:
    """Return arrays one behind the other; a single one as it is, since it may be large."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis)


def _picture(shape: Sequence[int]) -> tuple[int, int]:
    """Return height and width of [n, channels, height, width], or of [n, height, width, channels]."""
    return (shape[1], shape[2]) if shape[3] <= 4 < shape[1] else (shape[2], shape[3])


def _samples(look: Shown, batch: Answered) -> int:
    first = next((value for value in batch.inputs.values() if np.ndim(value)), None)
    return 1 if look.alone or first is None else len(first)


def _detects(look: Shown, scene: Scene, head: Detector) -> bool:
    """Whether a head is one without anybody saying so: the graph lists by what it sees, or few places show anything."""
    if not isinstance(head, Dense | Levels):
        return any(look.layouts.get(plane.name, Layout()).varies for plane in head.planes)
    told = any(
        look.layouts.get(plane.name, Layout()).shares or len(groups) > 1 or plane.name != head.planes[-1].name
        for plane in head.planes
        for groups in [look.outputs.of[plane.name].groups if plane.name in look.outputs.of else ()]
    )
    sure = head.probabilities(scene.results).max(axis=-1) >= scene.confidence
    return told and 0 < float(sure.mean()) < SPARSE


def _names(outputs: Sequence[Output]) -> str:
    return ", ".join(how.name for how in outputs)


FITS: Mapping[str, tuple[Callable[[Shown], Fit | None], str]] = {
    "detection": (
        _detection,
        "boxes and scores of as many places, as corners or as centre and size, or a list of boxes, scores and classes",
    ),
    "ctc": (_ctc, "class scores [samples, steps, classes], axes in any order"),
    "tokens": (
        _tokens,
        "token numbers [rows, steps], and class scores [rows, steps, vocabulary] that do not change with later tokens",
    ),
    "sequence": (_sequence, "class scores [samples, steps, classes]"),
    "segmentation": (_segmentation, "maps [samples, classes, height, width]"),
    "embedding": (_embedding, "an output [samples, channels]"),
    "classes": (_classes, "class scores [samples, classes], or class numbers"),
    "multilabel": (_multilabel, "an output of floats"),
    "regression": (_regression, "an output of floats"),
}
"""Kind of task -> how its outputs are recognised (None: they are not), and what it needs; the first that fits counts."""
