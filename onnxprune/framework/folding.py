"""Weights that an exporter has scaled: by a batch normalisation behind them, by their own norm, or by a constant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from onnxprune.framework.matching import OTHER, Matcher, module_of
from onnxprune.framework.placing import AxisMap, laid_as
from onnxprune.model.graph import Node

NORM = ("weight", "bias", "running_mean", "running_var")
SAME = 1e-4  # of a row's norm, of floats of 32 bits; of narrower ones SAME_NARROW
SAME_NARROW = 1e-2
MOST_EPSILON = 0.1
FIRST = 4  # rows that are compared before all are


class Scaled(NamedTuple):
    """A tensor of a model that is one of the checkpoint with its outputs, along ``axis``, multiplied by ``scales`` (float64[outputs])."""

    name: str
    tensor: str
    axes: AxisMap
    axis: int
    scales: np.ndarray


def outputs_axis(node: Node, place: int, rank: int) -> int | None:
    """Return the axis of a node's weight that its outputs lie along, None for what is no weight of a product."""
    if place != 1 or rank < 2:
        return None
    if node.op == "Gemm":
        return 0 if node.attribute("transB", 0) else 1
    return {"Conv": 0, "MatMul": rank - 1, "ConvTranspose": 1 if node.attribute("group", 1) == 1 else None}.get(node.op)


def tell_scaled(matcher: Matcher) -> None:
    """Tell the weights that are proportional to one of the model's, output by output, and what they were multiplied by."""
    for tensor in list(matcher.stored):
        for node, place in matcher.stored.graph.consumers.get(tensor, ()):
            axis = outputs_axis(node, place, len(matcher.stored.shape(tensor)))
            if axis is None or _holds_it(matcher, tensor):
                continue
            found = _without_copies(list(_scaled(matcher, tensor, axis)))
            if len(found) > 1:
                matcher.doubts |= {one.name: f"several weights are {tensor!r} but for a scale" for one in found}
            elif found:
                _tell(matcher, found[0], node)


def _holds_it(matcher: Matcher, tensor: str) -> bool:
    """Whether a tensor of the checkpoint has the same content."""
    return any(one.tensor == tensor and not one.how.endswith(OTHER) for one in matcher.told.values())


def _scaled(matcher: Matcher, tensor: str, axis: int) -> Iterator[Scaled]:
    """Yield the tensors that another one is proportional to, the one of its name alone where that is."""
    named = [one.name for one in matcher.told.values() if one.tensor == tensor]
    array = matcher.stored[tensor]
    for name in named or matcher.left:
        for axes in matcher.placings_of(name, tensor):
            own = laid_as(matcher.file[name], axes, array.shape)
            same = SAME_NARROW if min(own.dtype.itemsize, array.dtype.itemsize) < 4 else SAME
            first = _rows(array, axis, FIRST)
            if first.any() and proportions(first, _rows(own, axis, FIRST), same) is None:
                continue
            scales = proportions(_rows(array, axis), _rows(own, axis), same)
            if scales is not None:
                yield Scaled(name, tensor, axes, axis, scales)
                break


def _without_copies(found: list[Scaled]) -> list[Scaled]:
    """Leave out those named like another one but for their beginning or end: averages and states that are still what they stand beside."""
    names = [one.name for one in found]
    return [
        one
        for one in found
        if not any(one.name.endswith(f".{name}") or one.name.startswith(f"{name}.") for name in names)
    ]


def _rows(array: np.ndarray, axis: int, most: int | None = None) -> np.ndarray:
    """Return float64[outputs, rest] of a weight, of the first outputs alone where there is a limit."""
    rows = np.moveaxis(array, axis, 0)[:most]
    return rows.reshape(len(rows), -1).astype(np.float64)


def proportions(scaled: np.ndarray, own: np.ndarray, same: float) -> np.ndarray | None:
    """Return float64[rows] by which the rows of ``own`` are multiplied in ``scaled``; None where they are not, or have one number."""
    if own.shape[1] < 2 or not np.isfinite(own).all():
        return None
    power = np.square(own).sum(1)
    found = (scaled * own).sum(1) / np.where(power > 0, power, 1.0)
    off = np.linalg.norm(scaled - found[:, None] * own, axis=1)
    size = np.linalg.norm(scaled, axis=1)
    most = size.max(initial=0.0)
    return found if most > 0 and (off <= same * np.maximum(size, 1e-6 * most)).all() else None


def _tell(matcher: Matcher, found: Scaled, node: Node) -> None:
    """Tell a scaled weight, its bias, and the norm that it was scaled by."""
    along = (found.axis,)
    bias = f"{module_of(found.name)}.bias".lstrip(".")
    own_bias = matcher.file[bias] if bias in matcher.file and matcher.file[bias].shape == found.scales.shape else None
    norms = [
        module for module in _norms(matcher, len(found.scales)) if _is_norm(matcher, module, found, own_bias, node)
    ]
    norms = [module for module in norms if not any(module.endswith(f".{other}") for other in norms)]
    how = "scaled"
    if len(norms) == 1:
        how = "BatchNorm folded in"
        for part in NORM:
            name = f"{norms[0]}.{part}".lstrip(".")
            if name in matcher.file:
                matcher.tell(name, found.tensor, along, f"folded into {found.name}")
    elif norms:
        matcher.doubts |= {f"{module}.weight": f"several norms scale {found.tensor!r} alike" for module in norms}
    elif length := _length(matcher, found):
        how = "scaled to its length"
        matcher.tell(length, found.tensor, _axes_of_length(matcher, length, found), f"length of {found.name}")
    matcher.tell(found.name, found.tensor, found.axes, how)
    matcher.explained.add(node.input(2))
    if own_bias is not None and (bias not in matcher.told or matcher.told[bias].how.endswith(OTHER)):
        matcher.tell(bias, found.tensor, along, f"bias of {found.name}")


def _norms(matcher: Matcher, width: int) -> list[str]:
    """Return the modules not told yet that have a running mean and variance of so many channels."""
    left = set(matcher.left)
    modules = sorted({module_of(name) for name in left if name.endswith("running_var")})
    return [
        module
        for module in modules
        if all(
            f"{module}.{part}".lstrip(".") in left
            and matcher.file.places[f"{module}.{part}".lstrip(".")].shape == (width,)
            for part in NORM[2:]
        )
    ]


def _is_norm(matcher: Matcher, module: str, found: Scaled, bias: np.ndarray | None, node: Node) -> bool:
    """Whether scales and the bias behind them are what a batch normalisation makes of a layer (Ioffe & Szegedy 2015, figure 1)."""
    gain, shift, mean, variance = (_part(matcher, f"{module}.{part}".lstrip("."), part) for part in NORM)
    live = (np.abs(found.scales) > 1e-8) & (np.abs(gain) > 1e-8)
    if not live.any():
        return False
    epsilon = float(np.median((gain[live] / found.scales[live]) ** 2 - variance[live]))
    if not -1e-4 <= epsilon <= MOST_EPSILON or (variance + epsilon <= 0).any():
        return False
    made = gain / np.sqrt(variance + epsilon)
    if np.abs(made - found.scales).max() > 1e-3 * np.abs(made).max():
        return False
    stored = node.input(2)
    if stored not in matcher.stored or matcher.stored.shape(stored) != mean.shape:
        return True
    wanted = shift + ((0.0 if bias is None else bias.astype(np.float64)) - mean) * made
    there = matcher.stored[stored].astype(np.float64)
    return bool(np.abs(there - wanted).max() <= 1e-3 * max(np.abs(wanted).max(), 1e-6))


def _part(matcher: Matcher, name: str, part: str) -> np.ndarray:
    """Return a part of a norm as float64; one without gain and shift has ones and zeros."""
    if name in matcher.file:
        return matcher.file[name].astype(np.float64)
    width = matcher.file.places[f"{module_of(name)}.running_var".lstrip(".")].shape
    return np.ones(width) if part == "weight" else np.zeros(width)


def _length(matcher: Matcher, found: Scaled) -> str:
    """Return the tensor that holds the lengths which the rows of a weight are brought to (Salimans & Kingma 2016, equation 2), or ""."""
    shape = matcher.stored.shape(found.tensor)
    rows = _rows(laid_as(matcher.file[found.name], found.axes, shape), found.axis)
    wanted = found.scales * np.linalg.norm(rows, axis=1)
    for name in matcher.left:
        kind, shape, _ = matcher.file.places[name]
        if name == found.name or not np.prod(shape) == len(wanted) > 1 or not kind.startswith(("F", "BF")):
            continue
        there = matcher.file[name].reshape(-1).astype(np.float64)
        if np.abs(there - wanted).max() <= 1e-3 * np.abs(wanted).max():
            return name
    return ""


def _axes_of_length(matcher: Matcher, name: str, found: Scaled) -> AxisMap:
    return tuple(found.axis if size > 1 else None for size in matcher.file.places[name].shape)
