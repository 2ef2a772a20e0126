"""Surgery on the file itself: what a cut rewrites, and that it leaves everything else as it was, byte for byte."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from support.networks import feeds, network
from support.oracles import analysed, assert_sound, random_plan, run, same

from onnxprune.coupling.cut import cut
from onnxprune.coupling.groups import Analysis
from onnxprune.model.tensors import copy_field

CONV = "w = %6x3x1x1; b = %6; p = Conv(x, w, b)"
TOKENS = "w = %3x6; p = MatMul(x, w)"


def halved(model: ModelProto, allow: tuple[str, ...] = ()) -> ModelProto:
    """Cut every second unit of every group, hold the oracles, and return the result."""
    analysis = analysed(model, allow)
    assert analysis.groups
    return assert_sound(analysis, [np.arange(group.width) % 2 == 0 for group in analysis.groups])


def stored(model: ModelProto, name: str) -> list:
    return next(numpy_helper.to_array(t).tolist() for t in model.graph.initializer if t.name == name)


def names(model: ModelProto) -> set[str]:
    return {tensor.name for tensor in model.graph.initializer}


def shapes(model: ModelProto) -> dict[str, list[int]]:
    return {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}


def node(model: ModelProto, op: str, number: int = 0) -> NodeProto:
    return [n for n in model.graph.node if n.op_type == op][number]


def attributes(proto: NodeProto) -> dict:
    return {a.name: helper.get_attribute_value(a) for a in proto.attribute}


# --- widths of one, and ranges of one position --------------------------------------------------------------------


def only(analysis: Analysis, unit: int) -> list[np.ndarray]:
    """Keep one unit of every group."""
    return [np.arange(group.width) == unit for group in analysis.groups]


POOLED = "w = %4x3x1x1; p = Conv(x, w); g = GlobalAveragePool(p); "
ONE_LEFT = {
    "Squeeze without axes": (POOLED + "s = Squeeze(g); y = MatMul(s, %4x5)", 21),
    "Squeeze without axes, opset 11": (POOLED + "s = Squeeze(g); y = MatMul(s, %4x5)", 11),
    "Squeeze in a body": (
        POOLED + "c = @true; b = If (c) <then_branch = t () => (float[2,4] s) { s = Squeeze(g) }, "
        "else_branch = e () => (float[2,4] r) { z = Squeeze(g) r = Neg(z) }>; y = MatMul(b, %4x5)",
        21,
    ),
    "Reshape with 0 and -1": (POOLED + "s = Reshape(g, @[0, -1]); y = MatMul(s, %4x5)", 21),
    "Expand": (POOLED + "e = Expand(g, @[2, 4, 3, 3]); y = Conv(e, %5x4x1x1)", 21),
    "a factor that broadcasts": (POOLED + "m = Mul(g, %4x1x1); n = Add(m, p); y = Conv(n, %5x4x1x1)", 21),
    "scales of a quantised axis": (
        "w = %4x3x1x1:int8; d = DequantizeLinear<axis = 0>(w, %+4); p = Conv(x, d); y = Conv(p, %5x4x1x1)",
        21,
    ),
    "a depthwise convolution": (POOLED + "d = Conv<group = 4>(p, %4x1x1x1); y = Conv(d, %5x4x1x1)", 21),
}


@pytest.mark.parametrize(("text", "opset"), ONE_LEFT.values(), ids=ONE_LEFT)
@pytest.mark.parametrize("unit", [0, 2])
def test_a_width_of_one_means_what_it_did(text: str, opset: int, unit: int) -> None:
    analysis = analysed(network(text, "float[2,3,3,3] x", opset=opset))
    assert analysis.groups
    assert_sound(analysis, only(analysis, unit))


@pytest.mark.parametrize("unit", range(6))
@pytest.mark.parametrize("bounds", ["@[5], @[4], @[1], @[-1]", "@[0], @[-9], @[1], @[-1]", "@[4], @[0], @[1], @[-2]"])
def test_a_slice_backwards_beside_another_reader(bounds: str, unit: int) -> None:
    text = (
        f"w = %6x3x1x1; h = Conv(x, w); s = Slice(h, {bounds}); z = ReduceSum(s); k = Conv(h, %5x6x1x1); y = Add(k, z)"
    )
    analysis = analysed(network(text))
    assert_sound(analysis, [np.arange(group.width) != unit % group.width for group in analysis.groups])


# --- shapes written as constants ------------------------------------------------------------------------------------


def test_a_reshape_target_is_rewritten_in_place() -> None:
    text = f"{TOKENS}; s = @[0, 4, 2, 3]; r = Reshape(p, s); t = @[0, 4, 6]; h = Reshape(r, t); y = MatMul(h, %6x5)"
    small = halved(network(text, "float[2,4,3] x"))
    assert (stored(small, "s"), stored(small, "t")) == ([0, 4, 1, 3], [0, 4, 3])
    assert len(small.graph.node) == 4


def test_minus_one_and_zero_stay() -> None:
    text = f"{TOKENS}; s = @[0, -1, 2, 3]; r = Reshape(p, s); t = @[0, 0, -1]; h = Reshape(r, t); y = MatMul(h, %6x5)"
    small = halved(network(text, "float[2,4,3] x"))
    assert (stored(small, "s"), stored(small, "t")) == ([0, -1, 1, 3], [0, 0, -1])


@pytest.mark.parametrize("node", [False, True], ids=["initializer", "Constant"])
def test_declared_sizes_of_numbers_follow_their_content(node: bool) -> None:
    """A matrix of numbers that picks channels, whose own sizes the file declares as PyTorch's exporter does."""
    text = f"{CONV}; g = ReduceMax<keepdims=0>(p, @[2, 3]); n = @[[0, 1, 2, 3, 4, 5]]; h = Gather<axis=1>(g, n); r = Reshape(h, @[2, 6]); y = MatMul(r, %6x5)"
    model = network(text)
    model.graph.value_info.append(helper.make_tensor_value_info("n", TensorProto.INT64, [1, 6]))
    if node:
        (numbers,) = (tensor for tensor in model.graph.initializer if tensor.name == "n")
        model.graph.node.insert(0, helper.make_node("Constant", [], ["n"], value=numbers))
        model.graph.initializer.remove(numbers)
    small = halved(model)
    (declared,) = [value for value in small.graph.value_info if value.name == "n"]
    assert [dim.dim_value for dim in declared.type.tensor_type.shape.dim] == [1, 3]
    onnx.checker.check_model(small, full_check=True)


def test_a_target_shared_by_two_reshapes_is_copied_for_the_one_that_changes() -> None:
    text = (
        f"{TOKENS}; s = @[2, 24]; f = Reshape(p, s); y1 = MatMul(f, %24x5); g = MatMul(x, %3x6);"
        "k = Reshape(g, s); y = Add(k, k)"
    )
    small = halved(network(text, "float[2,4,3] x", "float[] y, float[] y1"))
    assert stored(small, "s") == [2, 24]
    first, second = node(small, "Reshape"), node(small, "Reshape", 1)
    assert second.input[1] == "s" and stored(small, first.input[1]) == [2, 12]


def test_a_target_that_all_its_readers_need_changed_is_replaced_once() -> None:
    """The file has one tensor for it as before, and none that nothing reads."""
    text = (
        f"{TOKENS}; s = @[2, 24]; f = Reshape(p, s); y1 = MatMul(f, %24x5); w2 = %3x6; q = MatMul(x, w2);"
        "k = Reshape(q, s); y = MatMul(k, %24x7)"
    )
    model = network(text, "float[2,4,3] x", "float[] y, float[] y1")
    model.graph.value_info.append(helper.make_tensor_value_info("s", TensorProto.INT64, [2]))
    small = halved(model)
    first, second = node(small, "Reshape"), node(small, "Reshape", 1)
    assert first.input[1] == second.input[1] and stored(small, first.input[1]) == [2, 12]
    assert len(names(small)) == len(names(model))
    assert "s" not in names(small) | {value.name for value in small.graph.value_info}


def test_a_computed_target_with_free_batch_follows_the_batch() -> None:
    text = (
        f"{TOKENS}; d = Shape(x); n = Gather(d, @[0]); l = Gather(d, @[1]); s = Concat<axis=0>(n, l, @[2, 3]);"
        "r = Reshape(p, s); t = Concat<axis=0>(n, l, @[6]); h = Reshape(r, t); y = MatMul(h, %6x5)"
    )
    model = network(text, "float[N,L,3] x", "float[N,L,5] y")
    small = halved(model)
    for batch in (1, 5):
        assert run(small, feeds(small, free=batch))["y"].shape == (batch, batch, 5)


def test_batch_times_heads_is_scaled() -> None:
    """Attention as PyTorch's own module writes it: batch and heads in one axis, whatever the batch is."""
    text = (
        "wq = %3x6; wk = %3x6; wv = %3x6; q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv); d = Shape(x);"
        "n = Gather(d, @[1]);"
        "m = Mul(n, @[2]); s = Concat<axis=0>(@[5], m, @[3]); qr = Reshape(q, s); kr = Reshape(k, s);"
        "vr = Reshape(v, s); qt = Transpose<perm=[1,0,2]>(qr); kt = Transpose<perm=[1,2,0]>(kr);"
        "vt = Transpose<perm=[1,0,2]>(vr); a = MatMul(qt, kt); e = Softmax(a); o = MatMul(e, vt);"
        "ot = Transpose<perm=[1,0,2]>(o); r = Concat<axis=0>(@[5], n, @[6]); h = Reshape(ot, r); y = MatMul(h, %6x4)"
    )
    analysis = analysed(network(text, "float[5,N,3] x", "float[5,N,4] y"))
    heads = [group for group in analysis.groups if group.width == 2]
    assert [group.multiplicity for group in heads] == [3]
    small = assert_sound(analysis, [np.arange(group.width) == 0 for group in analysis.groups])
    three = feeds(small, free=3)
    whole = run(small, three)["y"]
    assert whole.shape == (5, 3, 4)
    np.testing.assert_allclose(run(small, {"x": three["x"][:, :2]})["y"], whole[:, :2], rtol=1e-4, atol=1e-5)


def test_expand_to_a_stored_shape() -> None:
    small = halved(
        network(f"{CONV}; g = GlobalAveragePool(p); s = @[2, 6, 4, 4]; h = Expand(g, s); y = Conv(h, %5x6x1x1)")
    )
    assert stored(small, "s") == [2, 3, 4, 4]


def test_the_pad_of_a_parameterless_shortcut_is_computed_anew() -> None:
    """Channels are padded by half of what the picture lacks, all of it shape arithmetic on the two branches."""
    text = (
        "c = %4x3x1x1; e = Conv(x, c); w = %8x4x1x1; p = Conv(e, w); d = Shape(p); o = Gather(d, @[1]); f = Shape(e);"
        "i = Gather(f, @[1]); m = Sub(o, i); k = Div(m, @[2]); z = @[0]; zz = @[0, 0];"
        "q = Concat<axis=0>(z, k, zz, z, k, zz); s = Pad(e, q); a = Add(p, s); y = Conv(a, %5x8x1x1)"
    )
    analysis = analysed(network(text))
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert_sound(analysis, random_plan(analysis, rng))


def test_split_sizes_become_explicit_where_halves_differ() -> None:
    text = (
        f"{CONV}; l, r = Split<axis=1, num_outputs=2>(p); c = Conv(l, %4x3x1x1); d = Conv(r, %4x3x1x1); y = Add(c, d)"
    )
    analysis = analysed(network(text))
    plan = [np.array([True, False, False]), np.array([True, True, False])]
    small = assert_sound(analysis, [*plan, *(np.ones(g.width, bool) for g in analysis.groups[2:])])
    split = node(small, "Split")
    assert attributes(split) == {"axis": 1} and stored(small, split.input[1]) == [1, 2]


def test_group_counts_follow() -> None:
    small = halved(network(f"{CONV}; q = Conv<group=6>(p, %6x1x1x1, %6); y = Conv(q, %5x6x1x1)"))
    assert attributes(node(small, "Conv", 1))["group"] == 3


# --- where weights are stored ---------------------------------------------------------------------------------------


def test_initializers_that_are_inputs_too_keep_their_declaration() -> None:
    """IR version 3 demands that every initializer is an input: its declared shape follows the tensor's."""
    model = network(f"{CONV}; y = Conv(p, v); v = %5x6x1x1", opset=8, ir_version=3)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    small = halved(model)
    assert [v.name for v in small.graph.input] == ["x", "w", "b", "v"]
    declared = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in small.graph.input}
    assert {name: declared[name] for name in "wbv"} == {"w": [3, 3, 1, 1], "b": [3], "v": [5, 3, 1, 1]} == shapes(small)


def test_weights_in_constant_nodes_are_sliced_there() -> None:
    model = network("p = Conv(x, w); y = Conv(p, v); w = %6x3x1x1; v = %5x6x1x1")
    for tensor in model.graph.initializer:
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del model.graph.initializer[:]
    small = halved(model)
    assert not small.graph.initializer
    tensors = {n.output[0]: n.attribute[0].t for n in small.graph.node if n.op_type == "Constant"}
    assert {name: list(t.dims) for name, t in tensors.items()} == {"w": [3, 3, 1, 1], "v": [5, 3, 1, 1]}


def test_generated_weights_get_a_smaller_shape() -> None:
    fill = "c = ConstantOfShape<value = float[1] {0.5}>(s)"
    text = f"{CONV}; s = @[8, 6, 1, 1]; {fill}; h = Conv(p, c); y = Conv(h, %5x8x1x1)"
    assert stored(halved(network(text)), "s") == [4, 3, 1, 1]


def test_numbers_in_typed_fields_are_sliced_too() -> None:
    model = network("p = Conv(x, w); y = Conv(p, v); w = %6x3x1x1; v = %5x6x1x1")
    for tensor in model.graph.initializer:
        tensor.CopyFrom(helper.make_tensor(tensor.name, 1, tensor.dims, numpy_helper.to_array(tensor).reshape(-1)))
        assert tensor.float_data and not tensor.raw_data
    assert shapes(halved(model)) == {"w": [3, 3, 1, 1], "v": [5, 3, 1, 1]}


@pytest.mark.parametrize("dtype", ["float16", "double", "bfloat16"])
def test_other_float_types(dtype: str) -> None:
    model = network(
        f"w = %3x6:{dtype}; p = MatMul(x, w); h = Relu(p); y = MatMul(h, %6x5:{dtype})",
        f"{dtype}[2,3] x",
        f"{dtype}[] y",
    )
    analysis = analysed(model)
    small = cut(analysis, [np.arange(6) < 3]).proto
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    after = {t.name: numpy_helper.to_array(t) for t in small.graph.initializer}
    assert after["w"].tobytes() == np.ascontiguousarray(before["w"][:, :3]).tobytes()
    assert after["w"].dtype == before["w"].dtype


def test_a_weight_used_by_two_branches_is_cut_once() -> None:
    text = "w = %6x3x1x1; a = Conv(x, w); n = Relu(x); b = Conv(n, w); s = Add(a, b); y = Conv(s, %5x6x1x1)"
    assert shapes(halved(network(text)))["w"] == [3, 3, 1, 1]


# --- what is left alone ---------------------------------------------------------------------------------------------


def decorated() -> ModelProto:
    """A model with everything a file can carry beside its computation."""
    text = f"{CONV}; h = Relu(p); q = Conv(h, %8x6x1x1); y = Conv(q, %5x8x1x1); z = Conv(x, side); side = %2x3x1x1"
    model = network(text, "float[N,3,4,4] x", "float[N,5,4,4] y, float[N,2,4,4] z")
    model.producer_name, model.producer_version, model.domain, model.doc_string = "maker", "1.2", "a.b", "about it"
    model.model_version = 7
    model.metadata_props.add(key="author", value="somebody")
    model.opset_import.add(domain="com.microsoft", version=1)
    model.graph.name, model.graph.doc_string = "the net", "of graphs"
    for number, proto in enumerate(model.graph.node):
        proto.name, proto.doc_string = f"step {number}", f"does {proto.op_type}"
        proto.metadata_props.add(key="line", value=str(number))
    model.graph.input[0].doc_string = "a picture"
    model.graph.input[0].type.denotation = "IMAGE"
    model.graph.input[0].type.tensor_type.shape.dim[1].denotation = "DATA_CHANNEL"
    model.graph.initializer[0].doc_string = "kernels"
    note = model.graph.quantization_annotation.add(tensor_name="h")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="none")
    for name, channels in (("p", 6), ("h", 6), ("q", 8)):
        value = helper.make_tensor_value_info(name, 1, ["N", channels, 4, 4], doc_string=f"value {name}")
        model.graph.value_info.append(value)
    return model


def test_nothing_but_tensors_and_declared_sizes_changes() -> None:
    model = decorated()
    small = halved(model)
    restored = ModelProto()
    restored.CopyFrom(small)
    for index, tensor in enumerate(model.graph.initializer):
        assert small.graph.initializer[index].doc_string == tensor.doc_string
        restored.graph.initializer[index].CopyFrom(tensor)
    declared = {
        v.name: [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim] for v in small.graph.value_info
    }
    assert declared == {"p": ["N", 3, 4, 4], "h": ["N", 3, 4, 4], "q": ["N", 4, 4, 4]}
    for value in restored.graph.value_info:
        value.type.tensor_type.shape.dim[1].dim_value *= 2
    assert restored.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def test_tensors_that_stay_whole_are_not_encoded_anew() -> None:
    model = decorated()
    side = next(t for t in model.graph.initializer if t.name == "side")
    side.CopyFrom(helper.make_tensor("side", TensorProto.FLOAT, [2, 3, 1, 1], np.arange(6.0)))
    small = halved(model)
    kept = next(t for t in small.graph.initializer if t.name == "side")
    assert kept.SerializeToString() == side.SerializeToString() and kept.float_data


def test_fields_of_every_kind_are_copied_by_their_value() -> None:
    """Not by their descriptor, which names its kind differently in protobuf 4 and 7."""
    model = network(f"{CONV}; y = Relu(p)")
    model.producer_name, model.model_version = "maker", 3
    model.metadata_props.add(key="a", value="b")
    copy = ModelProto()
    for name in ("ir_version", "producer_name", "model_version", "opset_import", "metadata_props", "graph"):
        copy_field(copy, name, getattr(model, name))
    assert copy == model


def test_unused_tensors_and_missing_node_names_survive() -> None:
    model = decorated()
    model.graph.node[1].ClearField("name")
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "unused"))
    small = halved(model)
    assert "unused" in names(small)
    assert [n.name for n in small.graph.node] == [n.name for n in model.graph.node]


def test_fresh_names_avoid_those_taken() -> None:
    text = (
        f"{TOKENS}; s = @[2, 24]; f = Reshape(p, s); y1 = MatMul(f, %24x5); s_pruned = @[2, 24];"
        "k = Reshape(g, s); g = MatMul(x, %3x6); y = Reshape(k, s_pruned)"
    ).replace("k = Reshape(g, s); g = MatMul(x, %3x6);", "g = MatMul(x, %3x6); k = Reshape(g, s);")
    small = halved(network(text, "float[2,4,3] x", "float[] y, float[] y1"))
    assert stored(small, "s_pruned") == [2, 24]
    assert stored(small, node(small, "Reshape").input[1]) == [2, 12]


def test_the_result_still_infers_strictly() -> None:
    small = halved(decorated())
    onnx.shape_inference.infer_shapes(small, check_type=True, strict_mode=True, data_prop=True)


def test_a_weight_read_at_rest_is_part_of_the_cut() -> None:
    """A weight that is transposed and cast by nodes before its use is sliced where it is stored."""
    text = "w = %6x3; c = Cast<to=1>(w); t = Transpose(c); p = MatMul(x, t); y = MatMul(p, %6x5)"
    model = network(text, "float[2,3] x")
    small = halved(model)
    assert shapes(small)["w"] == [3, 3]
    same(run(small, feeds(model)), run(small, feeds(model)))


def test_constants_that_a_cut_adds_are_inputs_where_they_have_to_be() -> None:
    """Two nodes share a shape of which each needs another now, and IR 3 has no stored tensor that is no input."""
    text = """
w = %8x3x1x1; a = Conv(x, w); s = @[2, 8, 16]; b = Reshape(a, s)
v = %8x3x1x1; c = Conv(x, v); d = Reshape(c, s); e = MatMul(%4x8, b); f = MatMul(%5x8, d); y = Concat<axis=1>(e, f)
"""
    model = network(text, opset=8, ir_version=3)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    analysis = analysed(model)
    kept = [np.arange(8) < count for count in (6, 4)]
    small = assert_sound(analysis, kept)
    onnx.checker.check_model(small, full_check=True)
    added = {value.name for value in small.graph.input} - {value.name for value in model.graph.input}
    assert added == names(small) - names(model) == {"s_pruned", "s_pruned_2"}
