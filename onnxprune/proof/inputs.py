"""Drawn inputs: of the right types, in the range that the graph tells, of several kinds, since no one kind moves every output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from onnx import TensorProto, helper

from onnxprune.model.decoding import consistent, one_more
from onnxprune.model.facts import Facts, Shape, Sizes
from onnxprune.model.lookups import LOOKUPS
from onnxprune.model.sizes import free_dimensions
from onnxprune.model.values import filled

Feeds = dict[str, np.ndarray]
Draw = Callable[[np.random.Generator, Shape], np.ndarray]

PASSED_ON = {"Cast", "Reshape", "Identity", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Clip"}
"""Operators behind which a number is still the one that came in."""

TABLES = {(op, lookup.ids): lookup for op, lookups in LOOKUPS.items() for lookup in lookups}
"""Operator and input that looks up -> where its table is."""


class InputKind(NamedTuple):
    """How inputs are drawn: floats, flags, and integers that look nothing up."""

    floats: Draw
    flags: Draw
    integers: Draw


def _ones(_: np.random.Generator, shape: Shape) -> np.ndarray:
    return np.ones(shape)


def _zeros(_: np.random.Generator, shape: Shape) -> np.ndarray:
    return np.zeros(shape)


def _broken(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Return normal numbers, here and there zero, infinite or none."""
    value, place = rng.standard_normal(shape), rng.random(shape)
    return np.where(place < 0.04, np.nan, np.where(place < 0.08, np.inf, np.where(place < 0.5, 0.0, value)))


KINDS: dict[str, InputKind] = {
    "normal": InputKind(lambda rng, shape: rng.standard_normal(shape), _ones, _ones),
    "unit": InputKind(lambda rng, shape: rng.random(shape), _zeros, lambda rng, shape: rng.integers(0, 2, shape)),
    "image": InputKind(
        lambda rng, shape: 255 * rng.random(shape),
        lambda rng, shape: rng.integers(0, 2, shape),
        lambda rng, shape: rng.integers(0, 256, shape),
    ),
    "wide": InputKind(
        lambda rng, shape: 30 * rng.standard_normal(shape),
        lambda rng, shape: rng.integers(0, 2, shape),
        _ones,
    ),
    "negative": InputKind(lambda rng, shape: -rng.random(shape), _ones, _zeros),
    "broken": InputKind(_broken, _zeros, _zeros),
}
"""Standard normal with flags and masks set is what most models take; in [0, 1] logarithms and roots are finite."""


def random_feeds(
    facts: Facts,
    seed: int,
    sizes: Sizes | None = None,
    kind: str = "normal",
    integers: Mapping[str, np.ndarray] | None = None,
) -> Feeds:
    """Draw one input of a kind; whole numbers are those of real data, by input, where ``integers`` has any.

    Others are valid where a table is looked up, and bytes take their whole range.
    """
    rng, draw, real = np.random.default_rng(seed), KINDS[kind], integers or {}
    shapes = sizes or facts.sizes
    feeds = {
        name: rng.choice(real[name], shapes[name])
        if name in real and name not in facts.values and real[name].dtype.kind in "iu"
        else _drawn(facts, name, shapes[name], draw, rng)
        for name in facts.graph.inputs
    }
    return consistent(facts.decoding, feeds, whole=False) | {
        name: value for name, value in feeds.items() if name in facts.values
    }


def severed_values(facts: Facts, names: Sequence[str], seed: int, kind: str) -> Feeds:
    """Draw floats and flags of a kind in place of inner values, in the sizes of the analysis."""
    rng, draw = np.random.default_rng([seed, 4]), KINDS[kind]
    return {name: _drawn(facts, name, facts.shape(name) or (), draw, rng) for name in names}


def _drawn(facts: Facts, name: str, shape: Shape, draw: InputKind, rng: np.random.Generator) -> np.ndarray:
    dtype = helper.tensor_dtype_to_np_dtype(facts.dtype(name))
    if name in facts.values:
        return filled(name, facts.values[name], shape, dtype)
    if dtype.kind == "f" or facts.dtype(name) == TensorProto.BFLOAT16:
        return np.asarray(draw.floats(rng, shape)).astype(dtype)
    if dtype.kind == "b":
        return np.asarray(draw.flags(rng, shape)).astype(bool)
    if dtype.kind not in "iu":
        return np.ones(shape, dtype)
    if rows := table_size(facts, name):
        return rng.integers(0, rows, shape).astype(dtype)
    if dtype.itemsize == 1:
        range_ = np.iinfo(dtype)
        return rng.integers(range_.min, range_.max + 1, shape).astype(dtype)
    return np.asarray(draw.integers(rng, shape)).astype(dtype)


def table_size(facts: Facts, name: str) -> int:
    """Return the rows of the smallest table that an input's values, passed on unchanged, look up (0: none)."""
    found, waiting, seen = [], [name], {name}
    while waiting:
        for node, position in facts.graph.consumers.get(waiting.pop(), ()):
            if table := TABLES.get((node.op, position)):
                shape = facts.shape(node.input(table.table)) or (1,)
                found.append(shape[table.axis_of(node, len(shape))])
            elif node.op == "OneHot" and position == 0 and (depth := facts.array(node.inputs[1])) is not None:
                found.append(int(depth.reshape(-1)[0]))
            elif node.op in PASSED_ON and position == 0 and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                waiting.append(node.outputs[0])
    return min(found, default=0)


def next_token_sizes(facts: Facts) -> Sizes | None:
    """Return the input shapes of one token behind others that are cached, None where the model is no decoder that takes these."""
    sizes = one_more(facts.decoding, facts.sizes)
    free = {(name, axis) for name, axis, _ in free_dimensions(facts.graph)}
    fits = all(
        (name, axis) in free or n == facts.sizes[name][axis] for name, ns in sizes.items() for axis, n in enumerate(ns)
    )
    return sizes if sizes and fits else None


def has_switches(facts: Facts) -> bool:
    """Whether some input is a flag, or an integer that looks nothing up: such inputs choose between paths."""
    for name in facts.graph.inputs:
        dtype = helper.tensor_dtype_to_np_dtype(facts.dtype(name))
        if name in facts.values:
            continue
        if dtype.kind == "b" or (dtype.kind in "iu" and dtype.itemsize > 1 and not table_size(facts, name)):
            return True
    return False


def other_sizes(facts: Facts) -> Sizes | None:
    """Return the input shapes of the second assignment of free sizes, None where nothing is free."""
    shapes = {name: facts.second[name].shape for name in facts.graph.inputs if name in facts.second}
    if facts.first is facts.second or shapes == dict(facts.sizes) or None in shapes.values():
        return None
    return {name: shape for name, shape in shapes.items() if shape is not None}


SIZED = {"sizes": other_sizes, "cached": next_token_sizes}
"""Kind of inputs -> other sizes than those of the analysis."""
