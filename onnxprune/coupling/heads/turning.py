"""Bases for the widths of heads, by what is lost with each direction, and the model in them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxprune.coupling.heads.spaces import HeadBlock, Heads
from onnxprune.coupling.heads.tracing import ChannelSource
from onnxprune.model.model import Model

DAMPING = 1e-6
"""Of the mean of a diagonal, that is added to it: directions without energy keep a basis that can be inverted."""


def balanced_basis(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Return float64[width, width]: ``B`` of which the first columns carry most of ``x^T y = (B^T x)^T (B^-1 y)``.

    ``here``, ``there``: float64[width, width], second moments of x and y. With ``here^1/2 there^1/2 = U S V^T`` it is
    ``here^-1/2 U S^1/2``: both sides then have the second moment ``S``, and the first r directions are the product of rank r that is
    nearest in the mean square (Eckart and Young 1936).
    """
    root, inverse = _roots(here)
    left, size, _ = np.linalg.svd(root @ _roots(there)[0])
    left = left * np.sign(left[np.abs(left).argmax(axis=0), np.arange(len(left))])
    return (inverse @ left) * np.sqrt(np.maximum(size, np.finfo(np.float64).tiny))


def _roots(moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the square root of a damped second moment, of mean diagonal one, and its inverse."""
    mean = max(float(np.trace(moment)) / len(moment), np.finfo(np.float64).tiny)
    energy, vectors = np.linalg.eigh((moment + moment.T) / (2 * mean))
    energy = np.sqrt(np.maximum(energy, 0.0) + DAMPING)
    return (vectors * energy) @ vectors.T, (vectors / energy) @ vectors.T


def stored_moment(heads: Heads, block: HeadBlock, inverse: bool) -> np.ndarray:
    """Return float64[width, width]: products of what stored tensors have for each of two channels of one side, summed up."""
    width = len(block.roots)
    total = np.zeros((width, width))
    for source, _, places in heads.sources(block):
        if inverse in places:
            rows = _by_channels(heads.links.facts.content(source.name), source)[places[inverse]]
            flat = rows.swapaxes(0, 1).reshape(width, -1).astype(np.float64)
            total += flat @ flat.T
    return total if total.any() else np.eye(width)


def with_head_bases(heads: Heads, model: Model, bases: Mapping[HeadBlock, np.ndarray]) -> Model:
    """Return ``model``, the heads' own with other weights, with each block in its basis: float64[width, width], any that can be inverted."""
    arrays: dict[str, np.ndarray] = {}
    tensors = heads.links.facts.graph.tensors
    by_source: dict[ChannelSource, list[tuple[Mapping[bool, np.ndarray], np.ndarray]]] = {}
    for block, basis in bases.items():
        for source, _, places in heads.sources(block):
            by_source.setdefault(source, []).append((places, basis))
    for source, turns in by_source.items():
        before = arrays.get(source.name)
        whole = model.array(tensors[source.name]) if before is None else before
        rows = _by_channels(whole, source).astype(np.float64)
        for places, basis in turns:
            for inverse, there in places.items():
                matrix = np.linalg.inv(basis) if inverse else basis.T
                rows[there] = np.einsum("ki,ci...->ck...", matrix, rows[there])
        arrays[source.name] = _back(rows, whole.shape, source).astype(whole.dtype)
    return model.replaced(arrays)


def _by_channels(array: np.ndarray, source: ChannelSource) -> np.ndarray:
    """Return [positions along the source's axes, everything else]."""
    count = len(source.axes)
    moved = np.moveaxis(array, source.axes, range(count))
    return moved.reshape(int(np.prod(moved.shape[:count])), -1)


def _back(rows: np.ndarray, shape: tuple[int, ...], source: ChannelSource) -> np.ndarray:
    """Return what ``_by_channels`` was made of."""
    rest = [axis for axis in range(len(shape)) if axis not in source.axes]
    moved = rows.reshape([shape[axis] for axis in (*source.axes, *rest)])
    return np.moveaxis(moved, range(len(source.axes)), source.axes)
