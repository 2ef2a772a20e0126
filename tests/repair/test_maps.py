"""Nodes that are linear in stored weights: their rows times their matrix are what they compute, and fits find the least squares."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper
from support.networks import feeds, network

from onnxprune.evidence.rows import Sampler
from onnxprune.model import read
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.runtime import session
from onnxprune.repair.finding import as_map
from onnxprune.repair.maps import LinearMap, OwnProduct
from onnxprune.repair.stored import Stored

ALL = 10_000
MS = {"com.microsoft": 1}

SHOWN = {
    "transposed": ("y = ConvTranspose<strides=[2,2]>(x, %4x6x2x2, %6)", [2, 4, 5, 5]),
    "transposed, overlapping": ("y = ConvTranspose<strides=[2,3], pads=[1,0,2,1]>(x, %4x6x4x5)", [2, 4, 5, 4]),
    "transposed, dilated": (
        "y = ConvTranspose<strides=[2,1], dilations=[3,2], output_padding=[1,0]>(x, %4x6x3x2, %6)",
        [2, 4, 4, 5],
    ),
    "transposed, grouped": ("y = ConvTranspose<group=2, strides=[2,2], pads=[1,1,1,1]>(x, %4x3x3x3, %6)", [2, 4, 5, 5]),
    "transposed, depthwise": ("y = ConvTranspose<group=4, strides=[2,2]>(x, %4x1x2x2)", [2, 4, 5, 5]),
    "transposed, one axis": ("y = ConvTranspose<strides=[3], pads=[1,0]>(x, %4x6x5)", [2, 4, 7]),
    "transposed, three axes": ("y = ConvTranspose<strides=[2,1,2]>(x, %3x2x2x3x2)", [2, 3, 2, 3, 3]),
    "transposed, same upper": ('y = ConvTranspose<auto_pad="SAME_UPPER", strides=[2,2]>(x, %4x6x3x3)', [2, 4, 5, 5]),
    "transposed, same lower": ('y = ConvTranspose<auto_pad="SAME_LOWER", strides=[2,2]>(x, %4x6x3x3)', [2, 4, 5, 5]),
    "transposed, valid": ('y = ConvTranspose<auto_pad="VALID", strides=[2,2]>(x, %4x6x3x3)', [2, 4, 5, 5]),
    "transposed, told": ("y = ConvTranspose<strides=[2,2], output_shape=[10,11]>(x, %4x6x4x4)", [2, 4, 5, 6]),
    "transposed, told upper": (
        'y = ConvTranspose<strides=[2,2], output_shape=[10,11], auto_pad="SAME_UPPER">(x, %4x6x3x4)',
        [2, 4, 5, 6],
    ),
    "heads": ('y = Einsum<equation="bsd,dhk->bshk">(x, %4x2x3)', [2, 5, 4]),
    "merged heads": ('y = Einsum<equation="bshk,hkd->bsd">(x, %2x3x4)', [2, 5, 2, 3]),
    "a weight of each head": ('y = Einsum<equation="bhsd,hde->bhse">(x, %3x4x5)', [2, 3, 5, 4]),
    "weight first": ('y = Einsum<equation="od,bds->bso">(%6x4, x)', [2, 4, 5]),
    "implicit": ('y = Einsum<equation="bij,jk">(x, %4x6)', [2, 5, 4]),
    "dots": ('y = Einsum<equation="...d,de->...e">(x, %4x6)', [2, 3, 5, 4]),
    "transposed output": ('y = Einsum<equation="bsd,de->ebs">(x, %4x6)', [2, 5, 4]),
    "stack": ("y = MatMul(x, %3x4x6)", [2, 3, 5, 4]),
    "stack of one": ("y = MatMul(x, %1x4x6)", [2, 5, 4]),
    "weight at the left": ("y = MatMul(%6x4, x)", [2, 4, 5]),
    "a column": ("y = Gemm<transA=1, alpha=0.5>(x, %4x6, %6)", [4, 5]),
    "fused product": ("y = com.microsoft.FusedMatMul<transB=1, alpha=0.5>(x, %6x4)", [2, 5, 4]),
    "fused product, left": ("y = com.microsoft.FusedMatMul<transA=1>(x, %4x6)", [2, 4, 5]),
}
INSIDE = {
    "attention": (
        "y = com.microsoft.Attention<num_heads=2>(x, %8x24, %24)", [2, 5, 8], lambda x, w, b: x @ w + b,
    ),
    "rectified": ('y = com.microsoft.FusedGemm<activation="Relu", transB=1>(x, %6x4, %6)', [5, 4], lambda x, w, b: x @ w.T + b),
    "convolved": (
        'y = com.microsoft.FusedConv<activation="Relu", kernel_shape=[1]>(x, %6x4x1, %6)', [2, 4, 5],
        lambda x, w, b: np.einsum("bcs,oc->bso", x, w[:, :, 0]) + b,
    ),
}  # fmt: skip


def first_map(model: ModelProto) -> tuple[LinearMap, Stored]:
    loaded = read.load(model)
    graph = Graph(model)
    stored = Stored(graph, {n: numpy_helper.to_array(t) for n, t in graph.tensors.items()})
    found = as_map(graph.top[-1], stored, gather_facts(loaded, graph))
    assert found is not None
    return found, stored


def held(linear: LinearMap, stored: Stored) -> None:
    """What is read and written again is the same."""
    for name, array in linear.written(linear.whole(stored.arrays), stored.arrays).items():
        np.testing.assert_allclose(array, stored.arrays[name], rtol=1e-6)


@pytest.mark.parametrize("case", SHOWN)
def test_rows_times_the_matrix_are_the_output(case: str) -> None:
    body, shape = SHOWN[case]
    model = network(body, f"float[{','.join(map(str, shape))}] x", domains=MS)
    linear, stored = first_map(model)
    feed = feeds(model)
    output = session(model).run(feed)["y"]
    sampler = Sampler(shape[0], positions=ALL)
    rows = linear.rows_of([feed["x"]], sampler)
    product = rows @ linear.whole(stored.arrays).swapaxes(1, 2) + linear.offset(stored)[:, None]
    expected = linear.sought("y").rows(output, sampler)
    assert rows.shape[1] * linear.channels == output.size
    np.testing.assert_allclose(np.moveaxis(product, 0, 1).reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)
    held(linear, stored)


@pytest.mark.parametrize("case", INSIDE)
def test_products_that_stay_inside(case: str) -> None:
    body, shape, of = INSIDE[case]
    model = network(body, f"float[{','.join(map(str, shape))}] x", domains=MS)
    linear, stored = first_map(model)
    feed, sampler = feeds(model), Sampler(shape[0], positions=ALL)
    own = OwnProduct.of(linear, stored)
    expected = of(feed["x"], *(array for array in stored.arrays.values()))
    found = own.rows_of(feed, sampler)
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-4, atol=1e-5)
    assert own.counts_of(feed, sampler).sum() == len(found) and own.width(feed) == found.shape[1]
    held(linear, stored)


@pytest.mark.parametrize(
    "body",
    [
        'y = Einsum<equation="bsd,de->bs">(x, %4x6)',
        'y = Einsum<equation="bsd,dd->bs">(x, %4x4)',
        'y = Einsum<equation="bsd,bde->bse">(x, x2)',
        'y = Einsum<equation="bsd,de,ef->bsf">(x, %4x6, %6x5)',
        'y = Einsum<equation="bsd,d->bsd">(x, %4)',
    ],
)
def test_other_equations_are_no_contraction(body: str) -> None:
    model = network(body, "float[2,5,4] x, float[2,4,6] x2")
    graph = Graph(model)
    stored = Stored(graph, {n: numpy_helper.to_array(t) for n, t in graph.tensors.items()})
    assert as_map(graph.top[-1], stored, gather_facts(read.load(model), graph)) is None


# --- recurrent layers ---------------------------------------------------------------------------------------------------


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def lstm(sums: np.ndarray, state: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    i, o, f, c = np.split(sums, 4, axis=-1)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(c)
    return sigmoid(o) * np.tanh(cell), cell


def gru(sums: np.ndarray, state: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    z, _, n = np.split(sums, 3, axis=-1)
    return (1 - sigmoid(z)) * np.tanh(n) + sigmoid(z) * state, cell


def gru_late(sums: np.ndarray, state: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    z, r, n, k = np.split(sums, 4, axis=-1)
    return (1 - sigmoid(z)) * np.tanh(n + sigmoid(r) * k) + sigmoid(z) * state, cell


def rnn(sums: np.ndarray, state: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.tanh(sums), cell


CELLS = {
    "lstm": ("LSTM<hidden_size=3>", 4, lstm),
    "lstm, both ways": ('LSTM<hidden_size=3, direction="bidirectional">', 4, lstm),
    "lstm, backwards": ('LSTM<hidden_size=3, direction="reverse">', 4, lstm),
    "gru": ("GRU<hidden_size=3>", 3, gru),
    "gru, both ways, late": ('GRU<hidden_size=3, direction="bidirectional", linear_before_reset=1>', 3, gru_late),
    "rnn": ("RNN<hidden_size=3>", 1, rnn),
}


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("case", CELLS)
def test_sums_of_gates_make_the_states(case: str, lengths: bool) -> None:
    """From the rows of all steps follow the states that the layer gives: each goes on from the one before it."""
    text, gates, step = CELLS[case]
    ways = 2 if "bidirectional" in text else 1
    told = "@[5,2,4]:int32" if lengths else '""'
    parts = f"%{ways}x{3 * gates}x4, %{ways}x{3 * gates}x3, %{ways}x{6 * gates}, {told}, h"
    model = network(f"y = {text}(x, {parts})", f"float[5,3,4] x, float[{ways},3,3] h")
    linear, stored = first_map(model)
    feed = feeds(model)
    made = session(model).run(feed)["y"]
    own, sampler = OwnProduct.of(linear, stored), Sampler(3, positions=ALL)
    sums = own.rows_of(feed, sampler)
    counts = own.counts_of(feed, sampler)
    assert counts.tolist() == ([5, 2, 4] if lengths else [5, 5, 5])
    back = "reverse" in text
    starts = np.cumsum(counts) - counts
    for sample, (start, count) in enumerate(zip(starts, counts, strict=True)):
        for way in range(ways):
            state, cell = feed["h"][way, sample], np.zeros(3)
            own_sums = sums[start : start + count].reshape(count, ways, -1)[:, way]
            order = range(count)[::-1] if back or way else range(count)
            for at in order:
                state, cell = step(own_sums[at], state, cell)
                np.testing.assert_allclose(made[at, way, sample], state, rtol=1e-4, atol=1e-5)
    held(linear, stored)
