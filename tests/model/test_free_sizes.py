"""Networks with free batch, length and picture size, their shapes computed: one file must be right at every size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from onnx import ModelProto
from support.networks import feeds, network
from support.oracles import analysed, assert_sound, golden_lines, random_plan, run, same, silence_readers

from onnxprune.coupling.cut import cut
from onnxprune.model.graph import Graph
from onnxprune.model.meetings import met_sizes
from onnxprune.proof.check import check_cut


class Net(NamedTuple):
    """``weights_alone``: whether all that consumes the cut axes is a stored weight."""

    text: str
    golden: list[str]
    inputs: str = "float[N,L,3] x"
    outputs: str = "float[N,L,5] y"
    domains: dict[str, int] | None = None
    weights_alone: bool = True


NETS = {
    "expanded by ones": Net(
        "w = %6x3x1x1; p = Conv(x, w); g = GlobalAveragePool(p); e = Expand(g, @[1, 6, 2, 2]); y = Conv(e, %5x6x1x1)",
        ["w 6: w.0 writes, t3.1 reads"],
        inputs="float[N,3,H,W] x",
        outputs="float[N,5,2,2] y",
    ),
    "joined along the batch": Net(
        "w = %6x3x1x1; p = Conv(x, w); c = Concat<axis=0>(p, p); "
        "a, b = Split<axis=0, num_outputs=2>(c); s = Add(a, b); y = Conv(s, %5x6x1x1)",
        ["w 6: w.0 writes, t2.1 reads"],
        inputs="float[N,3,4,4] x",
        outputs="float[N,5,4,4] y",
    ),
    "fused attention": Net(
        "w = %6x18; b = %18; q = Relu(x); h = com.microsoft.Attention<num_heads=2>(q, w, b); y = MatMul(h, %6x5)",
        ["w 2x9: w.1 writes, b.0 shifts, t3.0 reads"],
        inputs="float[N,L,6] x",
        domains={"com.microsoft": 1},
    ),
    "windows": Net(
        "w = %3x6; p = MatMul(x, w); d = Shape(p); n = Gather(d, @[0]); h1 = Gather(d, @[1]); "
        "h2 = Div(h1, @[2]); s = Concat<axis=0>(n, h2, @[2], h2, @[2], @[6]); r = Reshape(p, s); "
        "t = Transpose<perm=[0,1,3,2,4,5]>(r); m = Reshape(t, @[-1, 4, 6]); q = MatMul(m, %6x6); "
        "k = Concat<axis=0>(n, h2, h2, @[2], @[2], @[6]); u = Reshape(q, k); "
        "v = Transpose<perm=[0,1,3,2,4,5]>(u); e = Reshape(v, d); y = MatMul(e, %6x5)",
        ["w 6: w.1 writes, t9.0 reads", "t9 6: t9.1 writes, t13.0 reads"],
        inputs="float[N,8,8,3] x",
        outputs="float[N,8,8,5] y",
    ),
    "flattened by a computed shape": Net(
        "w = %6x3x1x1; p = Conv(x, w); d = Shape(p); n = Gather(d, @0); u = Unsqueeze(n, @[0]); "
        "s = Concat<axis=0>(u, @[96]); f = Reshape(p, s); y = MatMul(f, %96x5)",
        ["w 6: w.0 writes, t5.0 reads"],
        inputs="float[N,3,4,4] x",
        outputs="float[N,5] y",
    ),
    "flattened by a product of sizes": Net(
        "w = %6x3x1x1; p = Conv(x, w); d = Shape(p); n = Gather(d, @[0]); c = Gather(d, @[1]); "
        "h = Gather(d, @[2]); v = Gather(d, @[3]); m = Mul(c, h); k = Mul(m, v); "
        "s = Concat<axis=0>(n, k); f = Reshape(p, s); y = MatMul(f, %96x5)",
        ["w 6: w.0 writes, t6.0 reads"],
        inputs="float[N,3,4,4] x",
        outputs="float[N,5] y",
    ),
    "scores divided by the root of a size": Net(
        "w = %3x6; v = %3x6; q = MatMul(x, w); k = MatMul(x, v); d = Shape(q); e = Gather(d, @2); "
        "f = Cast<to=1>(e); g = Sqrt(f); t = Transpose<perm=[0,2,1]>(k); s = MatMul(q, t); "
        "z = Div(s, g); a = Softmax(z); y = MatMul(a, %4x5)",
        ["w 6: w.1 writes, v.1 writes"],
        inputs="float[N,4,3] x",
        outputs="float[N,4,5] y",
        weights_alone=False,
    ),
    "mean as a sum divided by a size": Net(
        "w = %6x3x1x1; p = Conv(x, w); s = ReduceSum<keepdims=1>(p, @[1]); d = Shape(p); "
        "c = Gather(d, @1); f = Cast<to=1>(c); m = Div(s, f); r = Sub(p, m); y = Conv(r, %5x6x1x1)",
        ["w 6: w.0 writes, t4.1 reads"],
        inputs="float[N,3,4,4] x",
        outputs="float[N,5,4,4] y",
        weights_alone=False,
    ),
    "tiled by a computed shape": Net(
        "w = %6x3x1x1; p = Conv(x, w); g = GlobalAveragePool(p); d = Shape(p); "
        "hw = Slice(d, @[2], @[4]); r = Concat<axis=0>(@[1, 1], hw); t = Tile(g, r); s = Add(p, t); "
        "y = Conv(s, %5x6x1x1)",
        ["w 6: w.0 writes, t5.1 reads"],
        inputs="float[N,3,H,W] x",
        outputs="float[N,5,H,W] y",
    ),
    "positions counted by Range": Net(
        "e = %20x6; w = %3x6; p = MatMul(x, w); d = Shape(p); l = Gather(d, @1); r = Range(@0, l, @1); "
        "g = Gather(e, r); s = Add(p, g); y = MatMul(s, %6x5)",
        [
            "e 6: e.1 writes, w.1 writes, t6.0 reads",
            "! e.0 20/20: its positions are picked by numbers computed elsewhere",
        ],
    ),
    "positions sliced to length": Net(
        "e = %1x20x6; w = %3x6; p = MatMul(x, w); d = Shape(p); l = Gather(d, @[1]); "
        "g = Slice(e, @[0], l, @[1]); s = Add(p, g); y = MatMul(s, %6x5)",
        ["e 6: e.2 writes, w.1 writes, t6.0 reads", "! e.1 12/20: its size depends on the input"],
    ),
    "class token expanded to the batch": Net(
        "c = %1x1x6; w = %3x6; p = MatMul(x, w); d = Shape(p); n = Gather(d, @[0]); "
        "s = Concat<axis=0>(n, @[1, 6]); e = Expand(c, s); k = Concat<axis=1>(e, p); "
        "z = Gather<axis=1>(k, @0); y = MatMul(z, %6x5)",
        ["c 6: c.2 writes, w.1 writes, t6.0 reads"],
        outputs="float[N,5] y",
    ),
    "grouped queries": Net(
        "w = %3x12; v = %3x6; q = MatMul(x, w); k = MatMul(x, v); d = Shape(x); n = Gather(d, @[0]); "
        "l = Gather(d, @[1]); s4 = Concat<axis=0>(n, l, @[4, 3]); s2 = Concat<axis=0>(n, l, @[2, 3]); "
        "q4 = Reshape(q, s4); k4 = Reshape(k, s2); qt = Transpose<perm=[0,2,1,3]>(q4); "
        "kt = Transpose<perm=[0,2,3,1]>(k4); ku = Unsqueeze(kt, @[2]); "
        "s5 = Concat<axis=0>(n, @[2, 2, 3], l); ke = Expand(ku, s5); "
        "s6 = Concat<axis=0>(n, @[4, 3], l); kr = Reshape(ke, s6); s = MatMul(qt, kr); a = Softmax(s); "
        "v4 = Transpose<perm=[0,1,3,2]>(kr); o = MatMul(a, v4); ot = Transpose<perm=[0,2,1,3]>(o); "
        "s3 = Concat<axis=0>(n, l, @[-1]); oo = Reshape(ot, s3); y = MatMul(oo, %12x5)",
        ["w 2x6: w.1 writes, v.1 writes, t11.0 reads"],
    ),
    "group normalisation by reshaping": Net(
        "w = %6x3x1x1; p = Conv(x, w); r = Reshape(p, @[0, 2, -1]); "
        "i = InstanceNormalization(r, %2, %2); d = Shape(p); q = Reshape(i, d); m = Mul(q, %6x1x1); "
        "y = Conv(m, %5x6x1x1)",
        ["w 2x3: w.0 writes, t3.0 scales, t4.0 shifts, t5.0 scales, t6.1 reads"],
        inputs="float[N,3,H,W] x",
        outputs="float[N,5,H,W] y",
    ),
    "triangular mask of a computed shape": Net(
        "w = %3x6; p = MatMul(x, w); d = Shape(p); c = ConstantOfShape<value = float[1] {1.0}>(d); "
        "t = Trilu<upper=0>(c); m = Mul(t, p); y = MatMul(m, %6x5)",
        ["! w.1 6/6: a triangle of a whole matrix", "! t2.0 6/6: a triangle of a whole matrix"],
        inputs="float[N,4,3] x",
        outputs="float[N,4,5] y",
    ),
    "pixel shuffle": Net(
        "w = %8x3x3x3; p = Conv<pads=[1,1,1,1]>(x, w); a = DepthToSpace<blocksize=2>(p); y = Conv(a, %5x2x1x1)",
        [
            "w 2x4: w.0 writes, t2.1 reads",
            "! w.2 3/3: a window slides over this axis",
            "! w.3 3/3: a window slides over this axis",
        ],
        inputs="float[N,3,H,W] x",
        outputs="float[N,5,H2,W2] y",
    ),
    **{
        f"a batch divided out of batch times heads, {name}": Net(
            "w = %3x8; v = %3x8; q = MatMul(x, w); k = MatMul(x, v); qr = Reshape(q, @[0, 0, 4, 2]); "
            "kr = Reshape(k, @[0, 0, 4, 2]); qt = Transpose<perm=[0,2,1,3]>(qr); kt = Transpose<perm=[0,2,3,1]>(kr); "
            "s = Shape(x); t = Slice(s, @[1], @[2]); c1 = Concat<axis=0>(@[-1], t, @[2]); "
            "c2 = Concat<axis=0>(@[-1], @[2], t); qf = Reshape(qt, c1); kf = Reshape(kt, c2); z = MatMul(qf, kf); "
            f"zs = Shape(z); bh = Slice(zs, @[0], @[1]); {divided}; c3 = Concat<axis=0>(b, @[4], t, t); "
            "zr = Reshape(z, c3); zt = Transpose<perm=[0,2,3,1]>(zr); y = MatMul(zt, %4x5)",
            ["w 4x2: w.1 writes, v.1 writes, t15.0 reads"],
            inputs="float[N,L,3] x",
            outputs="float[N,L,L,5] y",
        )
        for name, divided in (
            ("whole numbers", "b = Div(bh, @[4])"),
            ("floats", "f = Cast<to=1>(bh); d = Div(f, @[4.]); e = Floor(d); b = Cast<to=7>(e)"),
            ("a factor", "f = Cast<to=1>(bh); d = Mul(f, @[0.25]); b = Cast<to=7>(d)"),
        )
    },
    "resized to another picture": Net(
        "w = %6x3x1x1; v = %6x3x1x1; p = Conv(x, w); k = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x); "
        "q = Conv(k, v); d = Shape(p); hw = Slice(d, @[2], @[4]); e = Shape(q); "
        'nc = Slice(e, @[0], @[2]); s = Concat<axis=0>(nc, hw); r = Resize<mode="nearest">(q, , , s); '
        "a = Add(p, r); y = Conv(a, %5x6x1x1)",
        ["w 6: w.0 writes, v.0 writes, t7.1 reads"],
        inputs="float[N,3,H,W] x",
        outputs="float[N,5,H,W] y",
    ),
}


def built(net: Net) -> ModelProto:
    return network(net.text, net.inputs, net.outputs, domains=net.domains)


@pytest.mark.parametrize("net", NETS.values(), ids=list(NETS))
def test_finds_the_expected_groups(net: Net) -> None:
    assert golden_lines(analysed(built(net))) == net.golden


@pytest.mark.parametrize("net", NETS.values(), ids=list(NETS))
def test_one_cut_is_right_at_every_size(net: Net) -> None:
    """At sizes that the analysis never saw, the cut equals the original whose readers are zero."""
    analysis = analysed(built(net))
    for seed in range(3):
        plan = random_plan(analysis, np.random.default_rng(seed))
        small, silent = assert_sound(analysis, plan), built(net)
        assert silence_readers(analysis, plan, silent) == net.weights_alone
        for size in (4, 6, 10):
            inputs = feeds(silent, free=size)
            want, have = run(silent, inputs), run(small, inputs)
            assert want["y"].shape == have["y"].shape
            if net.weights_alone:
                same(want, have)


def test_a_free_batch_that_the_shapes_contradict_is_analysed_as_one() -> None:
    """The file says any batch, its Reshape says one: nothing else can run, and the layers are prunable at that size."""
    text = "w1 = %6x8; a = MatMul(x, w1); r = Reshape(a, @[1, 4, 8]); y = MatMul(r, %8x3)"
    analysis = analysed(network(text, "float[N,4,6] x", "float[1,4,3] y"))
    assert analysis.facts.sizes == {"x": (1, 4, 6)}
    assert [(group.name, group.width) for group in analysis.groups] == [("w1", 8)]
    kept = [np.arange(8) % 2 == 0]
    assert check_cut(analysis, kept, cut(analysis, kept)).exact


def test_positions_along_a_free_axis_are_whole_numbers_too() -> None:
    """How many there are differs between the two sizes that a model is analysed with."""
    text = (
        "d = Shape<start=1, end=2>(x); s = Squeeze(d); r = Range(@0, s, @1); i = Cast<to=6>(r); f = Cast<to=1>(i); "
        "u = Unsqueeze(f, @[1]); m = MatMul(x, %3x8); h = Add(m, u); y = MatMul(h, %8x5)"
    )
    analysis = analysed(network(text, "float[N,L,3] x", "float[N,L,5] y"))
    kept = [np.arange(group.width) % 2 == 0 for group in analysis.groups]
    assert check_cut(analysis, kept, cut(analysis, kept)).exact


def test_nothing_is_said_of_axes_of_an_input_without_a_rank() -> None:
    model = network("t = Transpose<perm=[1, 0]>(x); y = MatMul(t, %4x3)", "float[4,n] x")
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert met_sizes(Graph(model), {"y": (1, 3)}) == {}
