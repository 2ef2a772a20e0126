"""Weights on a support, for every kind of node that has some: the same as least squares on columns that the runtime makes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper
from support.networks import network

from onnxprune.coupling.groups import Analysis, analyse
from onnxprune.coupling.kept import Kept
from onnxprune.model import read
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.runtime import session
from onnxprune.repair import Effort, Sequential
from onnxprune.repair.finding import as_map
from onnxprune.repair.maps import OwnProduct
from onnxprune.repair.stored import Stored
from onnxprune.repair.support import Support, joint_support

EXACT = Effort(positions=10_000, turns=0, damping=1e-9)
KINDS = {
    "conv": ("w = %3x2x2x2; b = %3; y = Conv(x, w, b)", [4, 2, 3, 3]),
    "transposed": ("w = %2x3x3x2; b = %3; y = ConvTranspose<strides=[2,2], pads=[1,0,0,1]>(x, w, b)", [4, 2, 3, 3]),
    "transposed, grouped": ("w = %4x2x3; y = ConvTranspose<group=2, strides=[2], dilations=[2]>(x, w)", [4, 4, 6]),
    "heads": ('w = %4x2x3; y = Einsum<equation="bsd,dhk->bshk">(x, w)', [4, 6, 4]),
    "merged heads": ('w = %2x2x3; y = Einsum<equation="bshk,hkd->bsd">(x, w)', [4, 6, 2, 2]),
    "weights of heads": ('w = %2x4x3; y = Einsum<equation="bhsd,hde->bhse">(x, w)', [4, 2, 6, 4]),
    "stack": ("w = %2x4x3; y = MatMul(x, w)", [4, 2, 6, 4]),
    "left": ("w = %3x4; y = MatMul(w, x)", [4, 4, 6]),
    "fused product": ("w = %3x4; y = com.microsoft.FusedMatMul<transB=1, alpha=0.5>(x, w)", [4, 6, 4]),
    "bias of one": ("w = %4x3; b = %1; y = Gemm(x, w, b)", [24, 4]),
}


def analysed(model: ModelProto) -> Analysis:
    loaded = read.load(model)
    return analyse(gather_facts(loaded, Graph(loaded.structure)))


def tensors(model: ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name in ("w", "b")}


def with_tensors(model: ModelProto, arrays: dict[str, np.ndarray]) -> ModelProto:
    result = ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name].astype(np.float32), tensor.name))
    return result


def columns(model: ModelProto, names: list[str], x: np.ndarray) -> dict[tuple[str, int], np.ndarray]:
    """Return (tensor, entry) -> the output of the node that has one there and zeros elsewhere."""
    nothing = {name: np.zeros_like(array) for name, array in tensors(model).items()}
    found = {}
    for name in names:
        for entry in range(nothing[name].size):
            unit = nothing[name].copy()
            unit.reshape(-1)[entry] = 1
            found[name, entry] = session(with_tensors(model, {**nothing, name: unit})).run({"x": x})["y"].reshape(-1)
    return found


@pytest.mark.parametrize("case", KINDS)
def test_weights_on_a_support_are_least_squares(case: str) -> None:
    body, shape = KINDS[case]
    model = network(body, f"float[{','.join(map(str, shape))}] x", domains={"com.microsoft": 1})
    x = np.random.default_rng(3).normal(0.4, 1, shape).astype(np.float32)
    wanted, old = session(model).run({"x": x})["y"], tensors(model)
    left = np.random.default_rng(4).random(old["w"].shape) < 0.5
    analysis = analysed(model)
    graph = analysis.facts.graph
    linear = as_map(graph.top[-1], Stored.of(analysis.facts.model, graph), analysis.facts)
    assert linear is not None
    (block,) = linear.blocks
    support = Support(lambda scores: scores > 0, block.arranged(left))
    walk = Sequential(analysis, Kept.whole(analysis), [{"x": x}], limits={"w": support}, effort=EXACT)
    fitted = walk.run(analysis.facts.model)
    made = {name: fitted.array(Graph(fitted.structure).tensors[name]) for name in old}
    assert not made["w"][~left].any()

    free = [*(name for name in ("b",) if name in old and old[name].size > 1)]
    every = columns(model, ["w"], x) | columns(model, free, x)
    chosen = [key for key in every if key[0] == "b" or left.reshape(-1)[key[1]]]
    fixed = session(with_tensors(model, {"w": 0 * old["w"]})).run({"x": x})["y"] if "b" in old and not free else 0.0
    design = np.stack([every[key] for key in chosen], axis=1).astype(np.float64)
    best = np.linalg.lstsq(design, (wanted - fixed).reshape(-1).astype(np.float64), rcond=None)[0]
    found = np.array([made[name].reshape(-1)[entry] for name, entry in chosen])
    np.testing.assert_allclose(found, best, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        "LSTM<hidden_size=3>(x, %1x12x4, %1x12x3, %1x24)",
        'GRU<hidden_size=3, direction="bidirectional">(x, %2x9x4, %2x9x3, %2x18)',
        "GRU<hidden_size=3, linear_before_reset=1>(x, %1x9x4, %1x9x3, %1x18)",
    ],
)
def test_input_and_state_are_fitted_together(text: str) -> None:
    """What both have in common is told to both, each on its own support; weights that belong to no gate stay zero."""
    model = network(f"y = {text}", "float[6,20,4] x")
    analysis = analysed(model)
    stored = Stored.of(analysis.facts.model, analysis.facts.graph)
    linear = as_map(analysis.facts.graph.top[-1], stored, analysis.facts)
    assert linear is not None and len(linear.blocks) == 2
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((6, 20, 2)) @ rng.standard_normal((2, 4))).astype(np.float32)
    masks = {block.name: rng.random(stored.arrays[block.name].shape) < 0.5 for block in linear.blocks}
    limits = [Support(lambda s: s > 0, block.arranged(masks[block.name])) for block in linear.blocks]
    joint = joint_support(zip(linear.blocks, limits, strict=True), linear.shape)
    assert joint.fixed is not None
    belongs = np.zeros(linear.shape, bool)
    for block in linear.blocks:
        block.put(True, belongs)  # type: ignore[arg-type]
    assert not joint.fixed[~belongs].any() and joint.fixed.sum() == sum(int(mask.sum()) for mask in masks.values())

    named = dict(zip(linear.weights, limits, strict=True))
    batches = [{"x": x}]
    walk = Sequential(analysis, Kept.whole(analysis), batches, limits=named, effort=EXACT)
    fitted = walk.run(analysis.facts.model)
    made = Stored.of(fitted, Graph(fitted.structure))
    for name, mask in masks.items():
        assert not made.arrays[name][~mask].any() and made.arrays[name][mask].all()
    again = as_map(made.graph.top[-1], made, analysis.facts)
    assert again is not None

    sampler = walk._wanted.sampler(0, batches[0])
    rows = again.rows_of([x], sampler)
    sums = OwnProduct.of(linear, stored).rows_of({"x": x}, sampler)
    wanted = np.moveaxis(sums.reshape(len(sums), linear.groups, -1), 1, 0)
    rows, wanted = rows - rows.mean(1, keepdims=True), wanted - wanted.mean(1, keepdims=True)
    best = np.zeros(linear.shape)
    for g, o in np.ndindex(*linear.shape[:2]):
        on = joint.fixed[g, o]
        best[g, o, on] = np.linalg.lstsq(rows[g][:, on].astype(np.float64), wanted[g, :, o], rcond=None)[0]
    errors = [
        float(np.square(wanted - rows @ weights.swapaxes(1, 2)).sum())
        for weights in (best, again.whole(made.arrays), linear.whole(stored.arrays) * joint.fixed)
    ]
    assert errors[0] <= errors[1] < 1.05 * errors[0] < 0.95 * errors[2]
