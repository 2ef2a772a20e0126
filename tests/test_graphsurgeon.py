"""onnx-graphsurgeon: its graphs are taken and given, and as an independent reader it takes what is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import ModelProto, helper, numpy_helper
from support.networks import feeds, network
from support.oracles import run

import onnxprune
from onnxprune import api
from onnxprune.errors import ModelError
from onnxprune.model.runtime import session
from onnxprune.model.surgeon import to_surgeon

MODELS = Path(__file__).parents[1] / "models"
CNN = MODELS / "digits_cnn.onnx"
TEXT = "w = %8x3x1x1; a = Conv(x, w); b = Relu(a); y = Conv(b, %4x8x1x1, %4)"


def written(graph: gs.Graph) -> ModelProto:
    """As it writes a model itself; versions of the time before IR versions would write the newest, which is for no runtime."""
    return gs.export_onnx(graph, ir_version=10)


# --- an independent reader ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits_cnn", "digits_transformer"])
def test_a_pruned_file_survives_another_editor(name: str) -> None:
    pruned = onnxprune.prune(MODELS / f"{name}.onnx", ratio=0.5, latency=False).model
    graph = gs.import_onnx(pruned)
    rewritten = written(graph.cleanup().toposort())
    onnx.checker.check_model(rewritten, full_check=True)
    image = np.load(MODELS / "digits_calib.npz")["image"][:5]
    first, second = (session(model).run({"image": image})["logits"] for model in (pruned, rewritten))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", ["digits_cnn", "digits_transformer"])
def test_it_sees_the_widths_of_the_plan(name: str) -> None:
    result = onnxprune.prune(MODELS / f"{name}.onnx", ratio=0.5, latency=False)
    tensors = result.graph.tensors()
    for tensor, axes in result.plan.kept.items():
        for axis, positions in axes.items():
            assert tensors[tensor].shape[int(axis)] == len(positions)


# --- taking ---------------------------------------------------------------------------------------------------------


def image_rows() -> np.ndarray:
    return np.load(MODELS / "digits_calib.npz")["image"][:16]


TAKERS: dict[str, Callable[[Any], Any]] = {
    "analyze": lambda model: [group.name for group in onnxprune.analyze(model).groups],
    "inspect": lambda model: api.inspect(model)["prunable"],
    "plan": lambda model: onnxprune.plan(model, ratio=0.5).kept,
    "prune": lambda model: onnxprune.prune(model, ratio=0.5, latency=False).plan.kept,
    "rewind": lambda model: onnxprune.prune(model, ratio=0.5, rewind=model, latency=False).plan.kept,
    "apply": lambda model: [*widths(onnxprune.apply(onnxprune.plan(CNN, ratio=0.5), model, force=True, latency=False))],
    "validate": lambda model: api.validate(model, model, image_rows())["drift"]["samples"],
    "check": lambda model: api.check(model, max_macs=10**9)["exit_code"],
    "bench": lambda model: api.bench(model, model, pairs=1, seconds=0.1)["command"],
    "sensitivity": lambda model: api.sensitivity(model, image_rows())["command"],
    "sweep": lambda model: api.sweep(model, ratios=(0.5,), criteria=("l2",), evaluation=image_rows())["command"],
}


def widths(result: onnxprune.Result) -> list[tuple[int, ...]]:
    return [tuple(tensor.dims) for tensor in result.model.graph.initializer]


@pytest.mark.parametrize("name", TAKERS)
def test_every_function_takes_a_graph(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    graph = gs.import_onnx(onnx.load(CNN))
    before = state(graph)
    assert TAKERS[name](graph) == TAKERS[name](written(gs.import_onnx(onnx.load(CNN))))
    assert state(graph) == before
    assert capfd.readouterr() == ("", "")


def state(graph: gs.Graph) -> list[Any]:
    """Everything of a graph that could be changed, as values; constants by their identity and whether they were read."""
    tensors = [(t.name, type(t), vars(t).get("_values") and id(t._values)) for t in graph.tensors().values()]
    nodes = [
        (n.op, n.name, n.domain, [t.name for t in n.inputs], [t.name for t in n.outputs], str(n.attrs))
        for n in graph.nodes
    ]
    domains = None if graph.import_domains is None else [(o.domain, o.version) for o in graph.import_domains]
    functions = [] if isinstance(graph, gs.Function) else graph.functions
    inner = [state(part) for part in (*functions, *graph.subgraphs())]
    own = {key: value for key, value in vars(graph).items() if isinstance(value, str | int | None)}
    return [own, tensors, nodes, domains, inner]


def test_a_graph_and_the_file_it_was_read_from_stay_as_they_are() -> None:
    """Where the exporter itself would add a domain to the file's, and rename the file's tensor."""
    text = '<domain: "own", opset_import: ["" : 17]> F (x) => (y) { y = Neg(x) }'
    proto = network("a = own.F(x); w = %4x3x1x1; y = Conv(a, w)", functions=text, domains={"own": 1}, opset=17)
    content = proto.SerializeToString(deterministic=True)
    graph = gs.import_onnx(proto)
    graph.tensors()["w"].name = "v"
    graph.nodes[0].outputs[0].outputs[0].inputs[0] = value = gs.Variable("g")
    gelu = gs.Node("FastGelu", domain="com.microsoft", inputs=[graph.nodes[0].outputs[0]], outputs=[value])
    graph.nodes.insert(1, gelu)
    before = state(graph)
    model = onnxprune.load(graph).proto
    assert state(graph) == before
    assert proto.SerializeToString(deterministic=True) == content
    assert {opset.domain for opset in model.opset_import} == {"", "own", "com.microsoft"}
    assert [tensor.name for tensor in model.graph.initializer] == ["v"]
    assert np.isfinite(run(model, feeds(model))["y"]).all()


def test_a_graph_made_by_hand_is_taken() -> None:
    """Without IR version and list of opsets."""
    x, y = gs.Variable("x", np.float32, (1, 3, 4, 4)), gs.Variable("y", np.float32, (1, 4, 4, 4))
    weights = [gs.Constant(n, np.ones(shape, np.float32)) for n, shape in (("w", (8, 3, 1, 1)), ("v", (4, 8, 1, 1)))]
    value = gs.Variable("a")
    nodes = [gs.Node("Conv", inputs=[x, weights[0]], outputs=[value])]
    nodes.append(gs.Node("Conv", inputs=[value, weights[1]], outputs=[y]))
    graph = gs.Graph(nodes, [x], [y], opset=13)
    result = onnxprune.prune(graph, ratio=0.5, round_to=1, latency=False)
    assert result.report["surgery"]["proven"]
    assert result.graph.tensors()["w"].shape == [4, 3, 1, 1]
    assert graph.tensors()["w"].shape == (8, 3, 1, 1)
    assert (result.model.opset_import[0].version, result.model.ir_version) == (13, 7)
    assert graph.import_domains is None


KINDS = (np.float16, np.float64, ml_dtypes.bfloat16, ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float8_e4m3fn)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: np.dtype(kind).name)
@pytest.mark.parametrize("lazy", [False, True])
def test_element_types_are_taken_and_given(kind: type, lazy: bool, capfd: pytest.CaptureFixture[str]) -> None:
    content = np.array([[1, 0, 1]]).astype(kind)
    tensor = numpy_helper.from_array(content, "w")
    value = helper.make_tensor_value_info("y", 1, [1, 3])
    cast = helper.make_node("Cast", ["w"], ["y"], to=1)
    model = helper.make_model(
        helper.make_graph([cast], "g", [], [value], [tensor]), opset_imports=[helper.make_opsetid("", 21)]
    )
    model.ir_version = 10
    graph = gs.import_onnx(model)
    if not lazy:
        graph.nodes[0].inputs = [gs.Constant("w", content)]
    capfd.readouterr()  # what reading the graph printed
    for _ in range(2):
        loaded = onnxprune.load(graph)
        assert loaded.proto.graph.initializer[0] == tensor
        graph = to_surgeon(loaded.proto)
    assert capfd.readouterr() == ("", "")


def test_ir_3_is_taken_and_given() -> None:
    """A graph declares no stored tensors, which IR 3 asks for."""
    model = network(TEXT, opset=8, ir_version=3)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, 1, list(tensor.dims)))
    result = onnxprune.prune(gs.import_onnx(model), ratio=0.5, round_to=1, latency=False)
    assert result.model.ir_version == 4 and len(result.model.graph.input) == 1
    old = onnxprune.prune(model, ratio=0.5, round_to=1, latency=False)
    assert old.model.ir_version == 3
    inputs = feeds(model)
    for other in (result.model, written(old.graph)):
        onnx.checker.check_model(other, full_check=True)
        np.testing.assert_array_equal(run(other, inputs)["y"], run(old.model, inputs)["y"])


def test_what_is_no_model_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    graph = gs.import_onnx(network(TEXT))
    graph.inputs[0].dtype = None
    with pytest.raises(ModelError, match=r"gs\.Graph cannot be written: .* must include dtype"):
        onnxprune.load(graph)
    graph = gs.import_onnx(network(TEXT))
    graph.nodes[0].attrs["group"] = object()
    with pytest.raises(ModelError, match=r"gs\.Graph cannot be written"):
        onnxprune.load(graph)
    graph = gs.import_onnx(network(TEXT))
    graph.nodes.reverse()
    with pytest.raises(ModelError, match="topologically sorted"):
        onnxprune.load(graph)
    assert capfd.readouterr() == ("", "")


# --- giving ---------------------------------------------------------------------------------------------------------


def test_the_graph_of_a_result_is_its_own() -> None:
    result = onnxprune.prune(network(TEXT), ratio=0.5, round_to=1, latency=False)
    content = result.model.SerializeToString(deterministic=True)
    assert result.graph is result.graph
    result.graph.tensors()["w"].name = "v"
    result.graph.nodes.append(gs.Node("F", domain="new", inputs=result.graph.outputs, outputs=[gs.Variable("z")]))
    gs.export_onnx(result.graph)
    assert result.model.SerializeToString(deterministic=True) == content


def test_external_data_comes_along(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save_model(network(TEXT), path, save_as_external_data=True, size_threshold=0)
    result = onnxprune.prune(path, ratio=0.5, round_to=1, latency=False)
    assert [tensor.data_location for tensor in result.model.graph.initializer] == [0, 0, 1]
    onnxprune.save(result.graph, tmp_path / "alone.onnx")
    inputs = feeds(network(TEXT))
    whole = onnxprune.prune(network(TEXT), ratio=0.5, round_to=1, latency=False).model
    np.testing.assert_array_equal(run(onnx.load(tmp_path / "alone.onnx"), inputs)["y"], run(whole, inputs)["y"])


def test_what_a_graph_would_leave_out_is_refused() -> None:
    """Attributes that hold a type."""
    model = network(TEXT)
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, None))
    model.graph.node.append(helper.make_node("Optional", [], ["o"], name="none", type=kind))
    with pytest.raises(ModelError, match=r"Optional 'none': gs\.Graph holds no 'type', which is TYPE_PROTO"):
        to_surgeon(model)
    model.graph.node[-1].CopyFrom(helper.make_node("Blob", [], ["o"], domain="own", content=b"\xff"))
    with pytest.raises(ModelError, match="no attribute that is no text"):
        to_surgeon(model)


def test_it_reads_no_pickles() -> None:
    for path in Path(gs.__file__).parent.rglob("*.py"):
        assert "pickle" not in path.read_text(), path
