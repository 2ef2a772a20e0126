"""What is added to a model: it computes what it says, no name collides, types stay, and of the file nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import ModelProto, helper, numpy_helper
from support.networks import feeds, network
from support.oracles import run

from onnxprune.model.graph import Graph, Names
from onnxprune.model.surgeon import Splicer

TEXT = "w = %4x3x1x1; a = Conv(x, w); b = Relu(a); c = Exp(b); y = Add(c, b)"


def spliced(
    model: ModelProto, added: gs.Graph, value: str, after: bool = False, reads: Sequence[str] = ()
) -> ModelProto:
    """Return a copy with ``added`` before (or after) the node that makes ``value``, which then reads ``reads``."""
    result = ModelProto()
    result.CopyFrom(model)
    graph = Graph(result)
    splicer = Splicer(graph, Names(result.graph))
    node = graph.producer[value]
    (splicer.after if after else splicer.before)(node, added)
    if reads:
        node.proto.input[:] = [name or added.nodes[-1].outputs[0].name for name in reads]
    splicer.carry_out()
    return result


def scaling(source: str, factor: np.ndarray, names: Sequence[str] = ("scale", "scaled", "Mul")) -> gs.Graph:
    """One node: what ``source`` is multiplied by is stored."""
    constant, value, label = names
    inputs = [gs.Variable(source), gs.Constant(constant, factor)]
    return gs.Graph([gs.Node("Mul", label, inputs=inputs, outputs=[gs.Variable(value)])])


def twice(source: str, names: Sequence[str] = ("scale", "scaled", "Mul")) -> gs.Graph:
    return scaling(source, np.array(2, np.float32), names)


def gate(source: str, inner: str = "inner") -> gs.Graph:
    """An If whose branches capture what is outside: the value or its negative, by the sign of its sum."""
    value, total, zero = gs.Variable(source), gs.Variable("total"), gs.Constant("zero", np.array(0, np.float32))
    sign, result = gs.Variable("sign"), gs.Variable("result")
    first, second = gs.Variable(inner), gs.Variable(inner)
    branches = {
        "then_branch": gs.Graph([gs.Node("Identity", inner, inputs=[value], outputs=[first])], outputs=[first]),
        "else_branch": gs.Graph([gs.Node("Neg", inner, inputs=[value], outputs=[second])], outputs=[second]),
    }
    nodes = [
        gs.Node("ReduceSum", attrs={"keepdims": 0}, inputs=[value], outputs=[total]),
        gs.Node("Greater", inputs=[total, zero], outputs=[sign]),
        gs.Node("If", "gate", branches, inputs=[sign], outputs=[result]),
    ]
    return gs.Graph(nodes)


def agree(model: ModelProto, result: ModelProto, expected: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    """Whether the result gives what ``expected`` makes of the original's b and c."""
    onnx.checker.check_model(result, full_check=True)
    inputs, inner = feeds(model), ModelProto()
    inner.CopyFrom(model)
    names = [node.output[0] for node in model.graph.node[1:3]]
    inner.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    b, c = map(run(inner, inputs).get, names)
    np.testing.assert_allclose(run(result, inputs)["y"], expected(b, c), rtol=1e-6)


# --- names ----------------------------------------------------------------------------------------------------------

MADE = ("scale", "scaled", "Mul", "total", "zero", "sign", "result", "inner", "gate")


@pytest.mark.parametrize("first", range(len(MADE)))
def test_no_name_collides(first: int) -> None:
    """The model's values, weight and nodes have the names that the subgraphs would use, one of them what they read."""
    hostile = dict(zip("abcw", (MADE * 2)[first : first + 4], strict=True))
    model = network(TEXT)
    for node in model.graph.node:
        node.input[:] = [hostile.get(name, name) for name in node.input]
        node.output[:] = [hostile.get(name, name) for name in node.output]
    model.graph.node[first % 4].name = MADE[first - 1]
    model.graph.initializer[0].name = hostile["w"]
    model.graph.ClearField("value_info")
    b, c = hostile["b"], hostile["c"]
    for added in (twice(b), twice(b, ("scale", b, "Mul"))):
        result = spliced(model, added, "y", reads=[c, ""])
        agree(model, result, lambda b, c: 2 * b + c)
        gated = spliced(result, gate(c), "y", reads=["", result.graph.node[-1].input[1]])
        agree(model, gated, lambda b, c: 2 * b + c)


def test_values_of_one_name_are_what_they_are_in_the_subgraph() -> None:
    """It reads the model's value of that name and makes another."""
    model = network(TEXT)
    agree(model, spliced(model, twice("b", ("b", "b", "b")), "y", reads=["c", ""]), lambda b, c: 2 * b + c)


def test_tensors_know_their_names_afterwards() -> None:
    added = twice("b", ("w", "a", "n"))
    spliced(network(TEXT), added, "y")
    (node,) = added.nodes
    assert [node.name, *(tensor.name for tensor in (*node.inputs, *node.outputs))] == ["n", "b", "w_2", "a_2"]


# --- types ----------------------------------------------------------------------------------------------------------

TYPES = (np.float16, np.float32, np.float64, np.int8, np.uint8, np.int64, np.bool_)
TYPES += (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4, ml_dtypes.uint4)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: np.dtype(kind).name)
def test_element_types_stay(kind: type) -> None:
    content = np.array([[1, 0, 1], [0, 0, 1]]).T.astype(
        kind
    )  # not in the order of its bytes, and an odd number of them
    result = spliced(network(TEXT), scaling("b", content), "y")
    tensor = result.graph.initializer[-1]
    assert tensor == numpy_helper.from_array(content.copy(), "scale")
    assert tensor.data_type == helper.np_dtype_to_tensor_dtype(np.dtype(kind))


# --- nothing else ---------------------------------------------------------------------------------------------------


def adorned() -> ModelProto:
    """A model with everything that a round trip would lose or change."""
    model = network(TEXT, functions='<domain: "own", opset_import: ["" : 17]> F (x) => (y) { y = Neg(x) }', opset=17)
    model.doc_string, model.producer_name, model.domain, model.model_version = "what it is", "someone", "here", 7
    model.metadata_props.add(key="license", value="none")
    model.opset_import.add(domain="own", version=1)
    model.graph.doc_string = "its graph"
    model.graph.quantization_annotation.add(tensor_name="b").quant_parameter_tensor_names.add(
        key="SCALE_TENSOR", value="w"
    )
    model.graph.initializer[0].doc_string = "its weight"
    model.graph.value_info.append(helper.make_tensor_value_info("b", 1, [2, 4, 4, 4]))
    for number, node in enumerate(model.graph.node):
        node.doc_string, node.name = f"its node {number}", f"n{number}"
        node.metadata_props.add(key="number", value=str(number))
    return model


@pytest.mark.parametrize("after", [False, True])
def test_all_else_stays_byte_for_byte(after: bool) -> None:
    model = adorned()
    result = spliced(model, gate("b"), "c", after)
    known = [node.name for node in model.graph.node if node.name]
    places = [place for place, node in enumerate(result.graph.node) if node.name not in known]
    assert places == ([3, 4, 5] if after else [2, 3, 4])
    assert [tensor.name for tensor in result.graph.initializer] == ["w", "zero"]
    for place in reversed(places):
        del result.graph.node[place]
    del result.graph.initializer[-1]
    assert result.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("version", [3, 4, 10])
@pytest.mark.parametrize("declared", [False, True])
def test_stored_tensors_are_declared_where_the_model_declares_its_own(version: int, declared: bool) -> None:
    model = network(TEXT, opset=8, ir_version=version)
    if declared or version == 3:
        model.graph.input.append(helper.make_tensor_value_info("w", 1, [4, 3, 1, 1]))
    result = spliced(model, twice("b"), "y", reads=["c", ""])
    names = [value.name for value in result.graph.input]
    assert names == (["x", "w", "scale"] if declared or version == 3 else ["x"])
    agree(model, result, lambda b, c: 2 * b + c)


# --- places, opsets -------------------------------------------------------------------------------------------------


def test_inside_a_body_constants_go_to_the_main_graph() -> None:
    text = """
r = ReduceSum<keepdims = 0>(x); z = @0.; g = Greater(r, z)
y = If(g) <then_branch = t () => (float[] p) { q = Exp(x)
 p = Neg(q) }, else_branch = e () => (float[] s) { s = Neg(x) }>
"""
    model = network(text, outputs="float[2,3,4,4] y")
    graph = Graph(model)
    splicer = Splicer(graph, Names(model.graph))
    node = next(node for node in graph.nodes if node.proto.output[0] == "p")
    added = twice("q")
    splicer.before(node, added)
    node.proto.input[0] = added.nodes[-1].outputs[0].name
    splicer.carry_out()
    onnx.checker.check_model(model, full_check=True)
    assert [tensor.name for tensor in model.graph.initializer][-1] == "scale"
    inputs = {"x": np.ones((2, 3, 4, 4), np.float32)}
    np.testing.assert_allclose(run(model, inputs)["y"], -2 * np.exp(inputs["x"]), rtol=1e-6)


def test_a_domain_that_is_new_to_the_model_is_named() -> None:
    node = gs.Node("FastGelu", domain="com.microsoft", inputs=[gs.Variable("b")], outputs=[gs.Variable("g")])
    result = spliced(network(TEXT), gs.Graph([node]), "y", reads=["c", ""])
    assert {opset.domain: opset.version for opset in result.opset_import} == {"": 21, "com.microsoft": 1}
    assert np.isfinite(run(result, feeds(result))["y"]).all()


def test_what_makes_no_model_is_refused() -> None:
    model = network(TEXT, opset=17)
    for value, after in (("b", False), ("b", True), ("c", False)):
        with pytest.raises(ValueError, match="'c' is made by 'c', which comes later"):
            spliced(model, twice("c"), value, after)
    spliced(model, twice("c"), "c", after=True)
    with pytest.raises(ValueError, match="'nowhere' is read"):
        spliced(model, twice("nowhere"), "y")
    gelu = gs.Node("Gelu", inputs=[gs.Variable("b")], outputs=[gs.Variable("g")])
    with pytest.raises(ValueError, match="opset 17, which has no Gelu"):
        spliced(model, gs.Graph([gelu]), "y")


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """What onnx-graphsurgeon says it prints to stdout, where results go."""
    for kind in (ml_dtypes.bfloat16, np.float32):
        spliced(network(TEXT), scaling("b", np.ones(1, kind), ("", "scaled", "")), "y")
    assert capfd.readouterr() == ("", "")
