"""From what the graph says and what a model gives on the first batches of data to how its outputs are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from onnxprune.data import Dataset
from onnxprune.errors import ModelError
from onnxprune.means import Means
from onnxprune.measure.outputs import (
    AT_ONCE,
    CLASSES,
    INTEGERS,
    PROBABILITIES,
    SCORES,
    VALUES,
    ChannelGroup,
    Layout,
    Output,
    Outputs,
    spans,
)
from onnxprune.measure.seen import Seen
from onnxprune.measure.tasks.find import Shown, task_of
from onnxprune.measure.tasks.focus import channels_of
from onnxprune.measure.tasks.task import AS_FOUND, Answered, Asked
from onnxprune.model.read import Model
from onnxprune.model.runtime import revealing

SAMPLES = 256  # rows at most whose outputs tell ranges and variances
BYTES = 1 << 27  # of outputs at most that are looked at
FLOOR = 0.003  # least deviation: of the largest value where all lie between 0 and 1, else of the group's largest
NOISE = 1e-4  # of a channel's mean: a deviation below is rounding
SHOWN_ROWS, SHOWN_BYTES = 64, 1 << 25  # whose outputs tell the task
RUNS = 3  # of channels between 0 and 1 at most that count as scores beside others: more are chance

Forward = Callable[[Mapping[str, np.ndarray]], Mapping[str, Any]]


class Place(NamedTuple):
    """``axis`` that follows the samples (None: none, or several), ``folded`` places on it for each.

    ``varies``: another changes with the data.
    """

    axis: int | None = None
    folded: int = 1
    varies: bool = False


@dataclass
class Sight:
    """One output while it is looked at: where its samples and channels are, its type, and its rows."""

    name: str
    dtype: np.dtype
    rank: int
    positions: int
    place: Place
    layout: Layout
    axis: int | None
    seen: Seen | None = None

    @property
    def plain(self) -> Output:
        """The output as one kind of values without a scale, to lay out its rows."""
        one = np.ones(1)
        return Output(self.name, VALUES, one, one, (), self.place.axis, self.axis, self.place.folded)


def observed(
    model: Model,
    dataset: Dataset,
    layouts: Mapping[str, Layout],
    means: Means = Means(),
    samples: int = SAMPLES,
    asked: Asked = AS_FOUND,
) -> Outputs:
    """Return how the outputs of a model are compared, from ``layouts`` of its graph and from runs on the first rows.

    ``asked``: the task that the user named. Raises ModelError where the model cannot be run, UsageError for a task that is not
    to be read from the outputs.
    """
    sources = [source for layout in layouts.values() for source in layout.sources]
    state = tuple(name for name, layout in layouts.items() if layout.state)
    opened = revealing(model, sources, threads=means.threads).leaving(state)
    run, mask = opened.run, dataset.schema.padding_mask
    shown: list[Answered] = []
    places = samples_axes(run, dataset)
    found = outputs_like(_first(run, dataset, means, samples, shown), places, layouts, mask)
    causal = causal_outputs(run, shown)
    task, reason = task_of(asked, Shown(found, layouts, shown, not dataset.schema.samples, causal=causal))
    told = {} if task is None else channels_of(task)
    unlike = {name: axis for name, axis in told.items() if name in found.of and found.of[name].channel_axis is None}
    if unlike:  # the graph does not say where the channels are, the task does
        known = {**layouts, **{name: replace(layouts.get(name, Layout()), axis=axis) for name, axis in unlike.items()}}
        found = outputs_like(_first(run, dataset, means, samples, []), places, known, mask)
    return replace(found, task=task, unknown="" if task else reason, state=state)


def causal_outputs(run: Forward, shown: Sequence[Answered]) -> dict[str, tuple[str, ...]]:
    """Return input of whole numbers [rows, steps] -> outputs [rows, steps, classes] of which only the last step changes with the last
    number.
    """
    found: dict[str, tuple[str, ...]] = {}
    for answered in shown[:1]:
        for name, ids in answered.inputs.items():
            outputs = [n for n, value in answered.results.items() if _steps_of(value, ids)]
            if not outputs:
                continue
            other = np.array(ids)
            other[:, -1] = np.where(ids[:, -1] == ids.max(), ids.min(), ids.max())
            changed = run({**answered.inputs, name: other})
            counted = np.ones(ids.shape, bool) if answered.mask is None else np.asarray(answered.mask) != 0
            found[name] = tuple(n for n in outputs if _changes_at_the_end(answered.results[n], changed[n], counted))
    return found


def _steps_of(value: Any, ids: np.ndarray) -> bool:
    """Whether an output is a row of class scores for each of some whole numbers of several kinds."""
    rows = isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.ndim == 3
    steps = rows and ids.dtype.kind in "iu" and ids.ndim == 2 and value.shape[:2] == ids.shape and ids.shape[1] > 2
    return bool(steps and value.shape[2] > 2 and len(np.unique(ids)) > 2)


def _changes_at_the_end(one: np.ndarray, other: np.ndarray, counted: np.ndarray) -> bool:
    """Whether values [rows, steps, classes] differ at the last step alone, of those that count."""
    if one.shape != other.shape or counted.shape != one.shape[:2] or not counted[:, -1].any():
        return False
    earlier = counted[:, :-1]
    a, b = one[:, :-1][earlier], other[:, :-1][earlier]
    return bool(
        np.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True) and not np.array_equal(one[:, -1], other[:, -1])
    )


def _first(
    run: Forward, dataset: Dataset, means: Means, samples: int, shown: list[Answered]
) -> Iterator[Mapping[str, Any]]:
    """Yield what the model gives for the first rows, a batch at a time; the first of them are ``shown``."""
    rows = size = 0
    mask = dataset.schema.padding_mask
    for inputs in dataset.batches(means.batch):
        found = run(inputs)
        if rows < SHOWN_ROWS and size < SHOWN_BYTES:
            shown.append(Answered(found, inputs[mask] if mask else None, inputs))
        yield found
        rows += len(next(iter(inputs.values()))) if dataset.schema.samples else 1
        size += sum(value.nbytes for value in found.values() if isinstance(value, np.ndarray))
        if rows >= samples or size >= BYTES:
            return


def samples_axes(run: Forward, dataset: Dataset) -> dict[str, Place]:
    """Return per output which axis follows the samples: known from two batch sizes where the model takes several.

    Where it does not, the axis as long as the batch; the one that is turned round with the batch where several are.
    """
    if not dataset.schema.samples:
        return {}
    inputs = next(iter(dataset.batches(3)))
    count, fixed = len(next(iter(inputs.values()))), dataset.schema.fixed_batch
    if fixed is not None:
        one, other = run(inputs), run({name: np.flip(array, 0) for name, array in inputs.items()})
        arrays = {name: value for name, value in one.items() if isinstance(value, np.ndarray)}
        return {name: _turned(value, other[name], fixed) for name, value in arrays.items()}
    sizes = (2, 3)
    try:
        one, two = (run({n: np.take(a, np.arange(k) % count, 0) for n, a in inputs.items()}) for k in sizes)
    except ModelError:
        sizes = (1, 1)
        one = two = run({name: array[:1] for name, array in inputs.items()})
    shapes = {name: (np.shape(one[name]), np.shape(two[name])) for name in one if isinstance(one[name], np.ndarray)}
    return {name: _place(*pair, sizes) for name, pair in shapes.items()}


def _turned(one: np.ndarray, other: np.ndarray, batch: int) -> Place:
    """Return the axis as long as the batch, of several the first along which ``other`` is ``one`` turned round."""
    if one.shape != other.shape:
        return Place(varies=True)
    axes = [axis for axis, size in enumerate(one.shape) if size == batch]
    if len(axes) > 1 and one.dtype.kind in "fiub":
        axes = [
            axis for axis in axes if np.allclose(np.flip(one, axis), other, rtol=1e-3, atol=1e-6, equal_nan=True)
        ] or axes
    return Place(next(iter(axes), None))


def _place(one: Sequence[int], two: Sequence[int], sizes: tuple[int, int]) -> Place:
    if len(one) != len(two):
        return Place(varies=True)
    follows = [axis for axis in range(len(one)) if (one[axis], two[axis]) == sizes]
    folds = [a for a in range(len(one)) if one[a] != two[a] and one[a] and one[a] * sizes[1] == two[a] * sizes[0]]
    axis = next(iter(follows or folds), None)
    folded = 1 if axis is None else one[axis] // sizes[0]
    moved = [at for at in range(len(one)) if one[at] != two[at] and at != axis]
    if moved and all(at in {*follows, *folds} for at in moved):
        return Place()  # samples against samples
    return Place(axis, folded, bool(moved))


def outputs_like(
    batches: Iterable[Mapping[str, Any]],
    places: Mapping[str, Place] | None = None,
    layouts: Mapping[str, Layout] | None = None,
    mask: str = "",
) -> Outputs:
    """Return how outputs are compared that look like these; without ``places`` the samples are on the first axis."""
    known = layouts or {}
    sights: dict[str, Sight] = {}
    left_out: dict[str, str] = {}
    for batch in batches:
        for name, value in batch.items():
            reason = _incomparable(value, known.get(name), (places or {}).get(name))
            if reason:
                left_out[name] = f"output {name!r} {reason}"
            elif name not in left_out:
                _look(sights, name, value, places, known.get(name, Layout()))
    found = {name: _output(sight) for name, sight in sights.items() if name not in left_out}
    if not found:
        left_out[""] = "no output can be compared, so that all that is tried looks alike"
    inner = tuple(source for layout in known.values() if layout.varies for source in layout.sources if source in found)
    varying = tuple(name for name in left_out if _varies(known.get(name), (places or {}).get(name)))
    return Outputs(found, tuple(left_out.values()), varying, inner, mask)


def _incomparable(value: Any, layout: Layout | None, place: Place | None) -> str:
    """Say why an output is not compared element by element ("": it is)."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
        return "is not a tensor of numbers and is not compared"
    if layout is not None and layout.constant:
        return "is stored in the file, whatever the inputs are, and takes no part"
    if not _varies(layout, place):
        return ""
    instead = layout.sources if layout is not None else ()
    what = f"; {', '.join(instead)} inside the model {'is' if len(instead) == 1 else 'are'} compared instead"
    return f"has entries that depend on the data and is not compared element by element{what if instead else ''}"


def _varies(layout: Layout | None, place: Place | None) -> bool:
    return (layout is not None and layout.varies) or (place is not None and place.varies)


def _look(
    sights: dict[str, Sight], name: str, value: np.ndarray, places: Mapping[str, Place] | None, layout: Layout
) -> None:
    if name not in sights:
        place = Place(0 if value.ndim else None) if places is None else places.get(name, Place())
        sights[name] = Sight(name, value.dtype, value.ndim, 0, place, layout, _channel_axis(value, place, layout))
    sight = sights[name]
    if value.dtype.kind != "f" or not value.size:
        return
    if sight.axis is not None and sight.seen is not None and value.shape[sight.axis] != len(sight.seen.count):
        sight.axis, sight.seen = None, sight.seen.joined()  # no channels: how many there are changes with the data
    rows = sight.plain.rows(value)
    sight.positions = rows.shape[1]
    flat = rows.reshape(-1, rows.shape[-1])
    step = max(1, AT_ONCE // rows.shape[-1])
    for start in range(0, len(flat), step):
        looked = Seen.of(flat[start : start + step])
        sight.seen = looked if sight.seen is None else sight.seen + looked


def _channel_axis(value: np.ndarray, place: Place, layout: Layout) -> int | None:
    """The graph's answer; where it has none, the second axis of what has two, if its size is fixed."""
    if layout.axis is not None and layout.axis != place.axis and layout.axis < value.ndim:
        return layout.axis
    rest = [axis for axis in range(value.ndim) if axis != place.axis]
    plain = value.ndim == 2 and len(rest) == 1 and not layout.bare and rest[0] not in layout.free
    return rest[0] if plain else None


def as_wholes(values: Mapping[str, Any]) -> Outputs:
    """Return how inner values are compared: each by the squared error over the variance of all its elements."""
    floats = {
        name: array for name, array in values.items() if isinstance(array, np.ndarray) and array.dtype.kind == "f"
    }
    return Outputs({name: _whole(name, array) for name, array in floats.items()})


def _whole(name: str, array: np.ndarray) -> Output:
    with np.errstate(invalid="ignore"):
        scale = max(float(np.var(array, dtype=np.float64)), 1e-12) ** 0.5
    return Output(
        name, VALUES, np.array([scale]), np.ones(1), (ChannelGroup(name, np.arange(1)),), 0 if array.ndim else None
    )


# --- one output -------------------------------------------------------------------------------------------------------


def _output(sight: Sight) -> Output:
    seen, plain = sight.seen, sight.plain
    if seen is None:
        return replace(plain, kind=INTEGERS if sight.dtype.kind != "f" else VALUES, groups=(ChannelGroup(sight.name, np.arange(1)),),
                       channel_axis=None)  # fmt: skip
    groups = _groups(sight, seen)
    kind = next(kind for kind, holds in KINDS.items() if holds(sight, seen, groups))
    if kind in CLASSES:
        groups = (ChannelGroup(sight.name, np.arange(len(seen.mean))),)
    weight = np.zeros(len(seen.mean))
    for group in groups:
        weight[group.channels] = 1 / len(groups) / len(group.channels)
    classes = kind in CLASSES or _may_choose(sight, seen, groups)
    return replace(
        plain,
        kind=kind,
        scale=_scale(seen, groups),
        weight=weight,
        groups=groups,
        classes=classes,
        shares=bool(seen.unit.all()),
        unit_rows=bool(seen.unit_rows),
    )


def _is_probabilities(sight: Sight, seen: Seen, groups: Sequence[ChannelGroup]) -> bool:
    return sight.axis is not None and len(seen.mean) > 1 and seen.sums_to_one


def _is_scores(sight: Sight, seen: Seen, groups: Sequence[ChannelGroup]) -> bool:
    """Class scores: logarithms of probabilities, what the graph takes for scores, or one row of unbounded channels per sample."""
    if sight.axis is None or len(seen.mean) < 2:
        return False
    if seen.logarithms:
        return True
    plausible = len(groups) == 1 and not sight.layout.bounded and not seen.unit_rows
    return plausible and (sight.layout.scores or (sight.positions == 1 and sight.rank == 2))


KINDS: dict[str, Callable[[Sight, Seen, Sequence[ChannelGroup]], bool]] = {
    PROBABILITIES: _is_probabilities,
    SCORES: _is_scores,
    VALUES: lambda sight, seen, groups: True,
}
"""Kinds of float outputs, the first that holds."""


def _may_choose(sight: Sight, seen: Seen, groups: Sequence[ChannelGroup]) -> bool:
    """Whether rows of values could be scores for all that is known: one matrix product makes them at each step of a sequence."""
    plausible = len(groups) == 1 and len(seen.mean) > 1 and not sight.layout.bounded
    return plausible and sight.rank == 3 and sight.layout.by_product


def _groups(sight: Sight, seen: Seen) -> tuple[ChannelGroup, ...]:
    """Part the channels by the layers that make them; where something squashes, by whether they lie between 0 and 1, too."""
    makers = sight.layout.makers
    keys = np.zeros(len(seen.mean), np.int64)
    if makers is not None and len(makers) == len(keys):
        keys = np.unique(makers, return_inverse=True)[1].astype(np.int64)
    unit = seen.unit
    runs = 1 + int((np.diff(unit.astype(np.int8)) != 0).sum())
    if (
        sight.layout.shares
        and 1 < runs <= RUNS
        and np.abs(np.where(unit, 0, np.maximum(seen.high, -seen.low))).max() > 1
    ):
        keys = keys * 2 + unit
    _, first, numbers = np.unique(keys, return_index=True, return_inverse=True)
    members = [np.flatnonzero(numbers == number) for number in np.argsort(first)]
    if len(members) == 1:
        return (ChannelGroup(sight.name, members[0]),)
    return tuple(ChannelGroup(f"{sight.name}[{spans(channels)}]", channels) for channels in members)


def _scale(seen: Seen, groups: Sequence[ChannelGroup]) -> np.ndarray:
    """Return each channel's deviation, but no less than what is noise beside the others of its group."""
    scale = seen.deviation.copy()
    for group in groups:
        there = group.channels
        largest = float(seen.high[there].max()) if seen.unit[there].all() else float(scale[there].max())
        least = np.maximum(FLOOR * largest, NOISE * np.abs(seen.mean[there]))
        scale[there] = np.maximum(scale[there], least)
    return np.where(scale > 0, scale, 1.0)
