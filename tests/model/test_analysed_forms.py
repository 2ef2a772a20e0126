"""Forms of files that the analysis has to understand: free channels, sparse tensors, growing states, sizes as floats."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper
from support.networks import feeds, network
from support.oracles import run, same

import onnxprune
from onnxprune.coupling.prepare import prepare, restore
from onnxprune.errors import ModelError, TargetError

IMAGES = "h = Conv(x, %6x3x1x1); r = Relu(h); y = Conv(r, %5x6x1x1)"
DATA = np.random.default_rng(0).standard_normal((12, 3, 8, 8)).astype(np.float32)

# inputs whose channels or features only the weights tell -> the network
FREE = {
    "a convolution": (IMAGES, "float[N,C,H,W] x"),
    "a transposed convolution": ("h = ConvTranspose(x, %3x6x1x1); r = Relu(h); y = Conv(r, %5x6x1x1)", "float[N,C,H,W] x"),
    "convolution groups": ("h = Conv<group = 3>(x, %6x2x1x1); r = Relu(h); y = Conv(r, %5x6x1x1)", "float[N,C,H,W] x"),
    "channels last": (f"t = Transpose<perm = [0, 3, 1, 2]>(z); x = Sub(t, %1x3x1x1); {IMAGES}", "float[N,H,W,C] z"),
    "a norm first": (f"x = BatchNormalization(z, %+3, %3, %3, %+3); {IMAGES}", "float[N,C,H,W] z"),
    "quantised": (f"q = QuantizeLinear(z, @0.1, @3:uint8); x = DequantizeLinear(q, @0.1, @3:uint8); {IMAGES}", "float[N,C,H,W] z"),
    "weights of another form": ("w = %6x3x1x1:int8; d = DequantizeLinear(w, @0.1); h = Conv(x, d); y = Conv(h, %5x6x1x1)", "float[N,C,H,W] x"),
    "a product": ("h = MatMul(x, %7x6); r = Relu(h); y = MatMul(r, %6x5)", "float[N,T,F] x"),
    "a product from the left": ("h = MatMul(%6x7, x); r = Relu(h); y = MatMul(%5x6, r)", "float[N,F,T] x"),
    "a transposed factor": ("h = Gemm<transB = 1>(x, %6x7); r = Relu(h); y = MatMul(r, %6x5)", "float[N,F] x"),
    "a layer norm": ("n = LayerNormalization(x, %7, %7); h = MatMul(n, %7x6); y = MatMul(h, %6x5)", "float[N,T,F] x"),
    "a recurrent layer": ("h = LSTM<hidden_size = 6>(x, %1x24x7, %1x24x6); s = Squeeze(h, @[1]); y = MatMul(s, %6x5)", "float[T,N,F] x"),
}  # fmt: skip


SIZES_OF = {"N": 2, "C": 3, "H": 4, "W": 4, "T": 4, "F": 7}


def free(text: str, inputs: str) -> ModelProto:
    """Return a network with the free sizes that ``inputs`` names; of its output only the rank is said."""
    head, _, names = inputs.partition("[")
    axes, _, name = names.partition("]")
    model = network(text, f"{head}[{','.join(str(SIZES_OF[axis]) for axis in axes.split(','))}]{name}")
    for dim, axis in zip(model.graph.input[0].type.tensor_type.shape.dim, axes.split(","), strict=True):
        dim.dim_param = axis
    for dim in model.graph.output[0].type.tensor_type.shape.dim:
        dim.ClearField("value")
    return model


@pytest.mark.parametrize(("text", "inputs"), FREE.values(), ids=FREE)
def test_free_channels_are_those_of_the_weights_that_meet_them(text: str, inputs: str) -> None:
    found = onnxprune.prune(free(text, inputs), ratio=0.5, round_to=1, latency=False)
    assert found.report["surgery"]["exact"]
    assert found.report["prunable"]["macs"] > 0.85


def test_where_no_weight_tells_the_input_and_the_option_are_named() -> None:
    model = free("f = Flatten(x); h = MatMul(f, %48x6); r = Relu(h); y = MatMul(r, %6x5)", "float[N,C,H,W] x")
    with pytest.raises(TargetError, match=r"x\[1\], x\[2\], x\[3\].*--input-shape"):
        onnxprune.prune(model, latency=False)
    assert onnxprune.prune(model, input_shape={"x": (1, 3, 4, 4)}, latency=False).report["surgery"]["exact"]


# --- sizes as floats --------------------------------------------------------------------------------------------------

CENTRED = "h = Conv(x, %16x3x3x3); {}; m = Div(t, f); d = Sub(h, m); y = Conv(d, %4x16x1x1)"
SIZES = {
    "all elements": "s = Size(h); f = Cast<to = 1>(s); t = ReduceSum(h, @[1, 2, 3])",
    "channels and space": "s = Shape<start = 1>(h); p = ReduceProd<keepdims = 0>(s); f = Cast<to = 1>(p); t = ReduceSum(h, @[1, 2, 3])",
    "a root": "s = Size(h); c = Cast<to = 1>(s); f = Sqrt(c); t = ReduceSum(h, @[1, 2, 3])",
    "double": "s = Size(h); c = Cast<to = 11>(s); k = Sqrt(c); f = Cast<to = 1>(k); t = ReduceSum(h, @[1, 2, 3])",
}
WAYS = (
    {}, {"criterion": "obs"}, {"recover": 2}, {"schedule": "linear:2"}, {"repair": "bias", "criterion": "taylor"},
    {"recover": 2, "recover_loss": "blocks"}, {"granularity": ("eigen",)}, {"search": 0.2},
)  # fmt: skip


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("inputs", ["float[N,3,8,8] x", "float[N,3,H,W] x"])
def test_float_sizes_are_brought_back_by_a_ratio(sizes: str, inputs: str) -> None:
    found = onnxprune.prune(network(CENTRED.format(sizes), inputs, "float[N,4,P,Q] y"), ratio=0.5, latency=False)
    assert found.report["surgery"]["exact"]
    assert [(group.width, len(group.kept)) for group in found.plan.groups] == [(16, 8)]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_what_the_cut_put_in_is_no_puzzle_to_later_stages(way: dict) -> None:
    model = network(CENTRED.format(SIZES["all elements"]), "float[N,3,8,8] x", "float[N,4,6,6] y")
    found = onnxprune.prune(model, ratio=0.5, round_to=1, calibration=DATA, latency=False, **way)
    assert found.report["surgery"]["exact"]
    ratios = [t for t in found.model.graph.initializer if "pruned" in t.name]
    assert [numpy_helper.to_array(t).item() for t in ratios] == [2.0] * len(ratios)


# --- tensors and values of other forms ----------------------------------------------------------------------------


def sparse(array: np.ndarray, name: str, coordinates: bool) -> SparseTensorProto:
    places = np.flatnonzero(array)
    listed = np.stack(np.unravel_index(places, array.shape), axis=1) if coordinates else places
    values = numpy_helper.from_array(array.reshape(-1)[places], name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(listed), list(array.shape))


def with_sparse(constant: bool, coordinates: bool, share: float) -> ModelProto:
    """Three layers, of which the second is stored sparsely, as an initializer or as a Constant."""
    model = network(
        "a = MatMul(x, %6x8); h = MatMul(a, w); r = Relu(h); y = MatMul(r, %16x4); w = %8x16",
        "float[N,6] x",
        "float[N,4] y",
    )
    rng = np.random.default_rng(0)
    array = np.where(rng.random((8, 16)) < share, rng.standard_normal((8, 16)), 0).astype(np.float32)
    tensor = sparse(array, "w", coordinates)
    kept = [t for t in model.graph.initializer if t.name != "w"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    if constant:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=tensor))
    else:
        model.graph.sparse_initializer.append(tensor)
    return model


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(("coordinates", "share"), [(False, 0.1), (True, 0.1), (True, 0.6)])
def test_sparse_tensors_are_cut_and_stay_sparse_where_that_is_less(
    constant: bool, coordinates: bool, share: float
) -> None:
    model = with_sparse(constant, coordinates, share)
    found = onnxprune.prune(model, ratio=0.5, round_to=1, latency=False)
    assert found.report["prunable"]["macs"] == 1.0
    assert found.report["surgery"]["exact"]
    stored = {t.values.name: list(t.dims) for t in found.model.graph.sparse_initializer}
    assert stored == ({"w": [4, 8]} if not constant and share < 0.3 else {})
    whole = prepare(onnxprune.load(model))
    same(run(model, feeds(model)), run(restore(whole, whole).proto, feeds(model)))


def growing(axis: int) -> ModelProto:
    """A state that is longer by a constant in every turn."""
    ends = [("i", [], TensorProto.INT64), ("c", [], TensorProto.BOOL), ("s", None, TensorProto.FLOAT)]
    outs = [("d", [], TensorProto.BOOL), ("t", None, TensorProto.FLOAT)]
    shape = ["L", 16] if axis == 0 else [4, "L"]
    body = helper.make_graph(
        [helper.make_node("Concat", ["s", "k"], ["t"], axis=axis), helper.make_node("Identity", ["c"], ["d"])],
        "body",
        [helper.make_tensor_value_info(name, kind, shape if dims is None else dims) for name, dims, kind in ends],
        [helper.make_tensor_value_info(name, kind, shape if dims is None else dims) for name, dims, kind in outs],
    )
    model = network(
        "h = MatMul(x, %6x16); k = Relu(h); y = MatMul(z, %16x4); z = Identity(k); n = @3",
        "float[4,6] x",
        "float[L,4] y",
    )
    nodes = list(model.graph.node)
    loop = helper.make_node("Loop", ["n", "", "k"], ["z"], body=body)
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:2], loop, nodes[2]])
    return model


def test_a_state_that_grows_stays_along_the_axis_that_grows() -> None:
    found = onnxprune.prune(growing(0), ratio=0.5, round_to=1, latency=False)
    assert found.report["surgery"]["exact"] and found.report["prunable"]["macs"] == 1.0
    assert [(group.width, len(group.kept)) for group in found.plan.groups] == [(16, 8)]


OTHERS = {
    "sequence": helper.make_tensor_sequence_value_info("q", TensorProto.FLOAT, [2, 3]),
    "optional": helper.make_value_info(
        "q", helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [2, 3]))
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_an_input_that_is_no_tensor_is_refused_by_name(kind: str) -> None:
    nodes = {"sequence": ("SequenceAt", ["q", "zero"]), "optional": ("OptionalGetElement", ["q"])}
    op, reads = nodes[kind]
    model = network("zero = @0; e = Identity(x); y = MatMul(e, %3x4)", "float[2,3] x")
    model.graph.node[0].CopyFrom(helper.make_node(op, reads, ["e"]))
    model.graph.input[0].CopyFrom(OTHERS[kind])
    with pytest.raises(ModelError, match=f"input 'q' is no tensor but of type {kind}"):
        onnxprune.load(model)


@pytest.mark.parametrize("opset", [18, 20, 21])
def test_operators_that_onnx_deprecates_but_the_runtime_runs_are_taken(opset: int) -> None:
    width = 4 if opset < 21 else 16
    text = f"h = Conv(x, %16x3x3x3); n = GroupNormalization<num_groups = 4>(h, %{width}, %{width}); r = Relu(n); y = Conv(r, %4x16x1x1)"
    found = onnxprune.prune(network(text, opset=opset), ratio=0.5, round_to=1, latency=False)
    assert found.report["surgery"]["exact"] and found.report["prunable"]["macs"] == 1.0


def test_outputs_without_a_shape_are_inferred() -> None:
    model = network(IMAGES)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    found = onnxprune.prune(model, ratio=0.5, round_to=1, latency=False)
    assert found.report["surgery"]["exact"]
    assert found.model.graph.output == model.graph.output
