"""Lines side by side in one model: what they share is there once, and each gives what it gives alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxprune.model.read import Model
from onnxprune.model.runtime import session
from onnxprune.proof.lines import merged_lines, with_joined_products

ONE, TWO = (np.random.default_rng(seed).standard_normal((4, 4)).astype(np.float32) for seed in range(2))


def product(*matrices: str, opset: int = 17) -> Model:
    """Return a model that multiplies its input with stored matrices, one after the other."""
    values = ["x", *(f"h{number}" for number in range(len(matrices) - 1)), "y"]
    nodes = [
        helper.make_node("MatMul", [values[place], name], [values[place + 1]], f"product_{place}")
        for place, name in enumerate(matrices)
    ]
    stored = [numpy_helper.from_array({"one": ONE, "two": TWO}[name], name) for name in dict.fromkeys(matrices)]
    declared = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, []) for name in ("x", "y")]
    for value in declared:
        value.type.tensor_type.ClearField("shape")  # of any shape
    graph = helper.make_graph(nodes, "products", declared[:1], declared[1:], stored)
    return Model.of(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8))


def products_of(model: Model) -> int:
    return Counter(node.op_type for node in model.structure.graph.node)["MatMul"]


@pytest.mark.parametrize("shapes", [[(2, 3, 4), (5, 4), (4,)], [(0, 4), (1, 2, 3, 4)], [(0, 4), (2, 0, 4)]])
def test_every_line_gives_what_it_gives_alone(shapes: list[tuple[int, ...]]) -> None:
    model = product("one", "two")
    whole = with_joined_products(merged_lines([model] * len(shapes)))
    assert products_of(whole) == 2
    feeds = {
        f"{number}:x": np.random.default_rng(number).standard_normal(shape).astype(np.float32)
        for number, shape in enumerate(shapes)
    }
    found, alone = session(whole, optimise=False).run(feeds), session(model, optimise=False)
    for number in range(len(shapes)):
        want = alone.run({"x": feeds[f"{number}:x"]})["y"]
        assert found[f"{number}:y"].shape == want.shape
        np.testing.assert_allclose(found[f"{number}:y"], want, rtol=1e-5, atol=1e-6)


def test_nodes_stand_behind_those_whose_values_they_read() -> None:
    whole = with_joined_products(merged_lines([product("one", "two")] * 3))
    known = {value.name for value in (*whole.structure.graph.input, *whole.structure.graph.initializer)}
    for node in whole.structure.graph.node:
        assert known.issuperset(node.input)
        known.update(node.output)


@pytest.mark.parametrize(
    "models",
    [
        [product("one", opset=13)] * 2,  # before shapes could be taken in part
        [product("one", "one")] * 2,  # a line that uses a matrix twice
    ],
)
def test_what_cannot_be_joined_stays_as_it_is(models: list[Model]) -> None:
    whole = merged_lines(models)
    assert products_of(with_joined_products(whole)) == products_of(whole)


def test_lines_that_use_two_matrices_in_different_orders_do_not_wait_for_each_other() -> None:
    first, other = product("one", "two"), product("two", "one")
    other = Model.derived(first, other.structure)  # the same stored tensors
    whole = merged_lines([first, other])
    assert products_of(whole) == 4 and len(whole.structure.graph.initializer) == 2
    assert products_of(with_joined_products(whole)) == 4
