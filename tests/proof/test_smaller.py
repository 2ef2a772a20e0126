"""A proof on smaller pictures: only where they show as much, and then nothing that whole ones would show is missed."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto
from support.mutations import ROUNDING, Bench, damages
from support.networks import network
from support.oracles import analysed, random_plan

import onnxprune
from onnxprune.proof import smaller
from onnxprune.proof.smaller import smaller_sizes

BLOCKS = (
    "p = Conv<strides=[2,2], pads=[3,3,3,3]>(x, %6x3x7x7, %6); q = Relu(p); m = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(q); "
    "r = Conv<strides=[2,2], pads=[1,1,1,1]>(m, %8x6x3x3, %8); s = Relu(r); t = Conv<pads=[1,1,1,1]>(s, %8x8x3x3, %8); u = Relu(t); "
    "v = Add(s, u); w = Conv<strides=[2,2], pads=[1,1,1,1]>(v, %10x8x3x3, %10); z = Relu(w); a = GlobalAveragePool(z); f = Flatten(a); "
    "y = Gemm<transB=1>(f, %5x10, %5)"
)


def pictures(body: str = BLOCKS, size: int = 160, inputs: str = "float[N,3,{0},{0}] x", **more: object) -> ModelProto:
    return network(body, inputs.format(size), "float[] y", **more)


@pytest.fixture(autouse=True)
def worthwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smaller, "WORTH", 0)


def sizes(model: ModelProto) -> list[tuple[int, ...]]:
    return [found["x"] for found in smaller_sizes(onnxprune.analyze(model).facts)]


def test_pictures_are_smaller_in_both_assignments_of_free_sizes() -> None:
    assert sizes(pictures()) == [(2, 3, 64, 64), (3, 3, 64, 64)]
    assert sizes(pictures(size=640)) == [(2, 3, 160, 160), (3, 3, 160, 160)]


@pytest.mark.parametrize(
    "model",
    [
        pictures("p = Conv(x, %4x3x3x3); r = Relu(p); f = Flatten(r); y = MatMul(f, %99856x5)"),  # weights want the size
        pictures("p = Conv(x, %4x3x1x1); q = Add(p, %4x160x160); y = Conv(q, %2x4x1x1)"),  # and what is added
        pictures("p = Conv(x, %4x3x1x1); q = Reshape(p, @[0, 4, 25600]); r = Unsqueeze(q, @[3]); y = Conv(r, %2x4x1x1)"),
        pictures("p = Conv(x, %4x3x1x1); q = AveragePool<kernel_shape=[160,160]>(p); y = Conv(q, %2x4x1x1)"),
        pictures("p = Conv<strides=[80,80]>(x, %4x3x80x80); q = Relu(p); y = Conv(q, %2x4x2x2)"),  # one window would be left
        pictures(size=96),  # not large
    ],
)  # fmt: skip
def test_whole_pictures_where_smaller_ones_show_less(model: ModelProto) -> None:
    assert sizes(model) == []


def test_every_tap_of_a_window_meets_the_picture() -> None:
    """The map before the last convolution has 5 positions at 160 and 2 at 64, of which a window of 9 taps needs 5."""
    strided = BLOCKS.replace("y = Gemm<transB=1>(f, %5x10, %5)", "")
    wide = strided.replace(
        "a = GlobalAveragePool(z); f = Flatten(a); ", "y = Conv<pads=[{0},{0},{0},{0}]>(z, %5x10x{1}x{1})"
    )
    assert sizes(pictures(wide.format(1, 3), 640)) == [(2, 3, 160, 160), (3, 3, 160, 160)]
    assert sizes(pictures(wide.format(10, 21), 320)) == []
    assert sizes(pictures(wide.format(10, 21), 640)) == [(2, 3, 320, 320), (3, 3, 320, 320)]


def test_damages_are_seen_on_smaller_pictures() -> None:
    analysis = analysed(pictures())
    bench = Bench(analysis, random_plan(analysis, np.random.default_rng(0)))
    assert bench.prover.smaller and bench.accepts(bench.small)
    for damage in damages(bench.small):
        assert not bench.accepts(damage.model) or bench.harm(damage.model) <= ROUNDING, damage


def test_samples_may_be_on_any_axis_of_an_output() -> None:
    """A recogniser of text gives steps first and samples second."""
    body = BLOCKS.replace(
        "y = Gemm<transB=1>(f, %5x10, %5)", "g = Gemm<transB=1>(f, %5x10, %5); y = Unsqueeze(g, @[0])"
    )
    analysis = analysed(pictures(body))
    bench = Bench(analysis, random_plan(analysis, np.random.default_rng(0)))
    assert bench.prover.smaller and bench.accepts(bench.small)


def test_a_result_that_runs_on_smaller_pictures_alone_is_refused() -> None:
    """Its last pooling takes windows of 64 positions, one of which is the whole map at 64 and not at 160."""
    analysis = analysed(
        pictures(
            "p = Conv(x, %6x3x1x1); q = Relu(p); r = Conv(q, %4x6x1x1); y = ReduceMean<keepdims=1>(r, @[2, 3])",
            opset=18,
        )
    )
    bench = Bench(analysis, random_plan(analysis, np.random.default_rng(0)))
    assert bench.prover.smaller and bench.accepts(bench.small)
    wrong = ModelProto()
    wrong.CopyFrom(bench.small)
    (mean,) = (node for node in wrong.graph.node if node.op_type == "ReduceMean")
    mean.op_type = "AveragePool"
    del mean.input[1:], mean.attribute[:]
    for name in ("kernel_shape", "strides"):
        mean.attribute.add(name=name, type=7).ints.extend([64, 64])
    assert not bench.accepts(wrong)
