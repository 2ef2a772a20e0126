"""Grouped convolutions: the same channels of every group by default, whole groups by choice."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, helper, numpy_helper
from support.networks import feeds, network
from support.oracles import analysed

import onnxprune
from onnxprune.changes.plan import from_json
from onnxprune.coupling.cut import cut
from onnxprune.errors import UsageError
from onnxprune.model.facts import Facts, gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.read import load
from onnxprune.proof.check import check_cut

RESNEXT = """
w1 = %12x3x1x1; p = Conv(x, w1); q = Relu(p)
w2 = %18x4x3x3; b2 = %18; r = Conv<group=3,pads=[1,1,1,1]>(q, w2, b2); s = Relu(r); w3 = %5x18x1x1; y = Conv(s, w3)
"""
RADIX = """
w1 = %8x3x1x1; p = Conv(x, w1); w2 = %12x4x1x1; q = Conv<group=2>(p, w2)
five = @[2, 2, 6, 4, 4]; r = Reshape(q, five); axis = @[1]; s = ReduceSum<keepdims=0>(r, axis); w3 = %5x6x1x1; y = Conv(s, w3)
"""


def convolution(model: ModelProto) -> tuple[int, tuple[int, ...]]:
    """Return the groups of the second convolution, and the shape of its weights."""
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    node = next(node for node in model.graph.node if "w2" in node.input)
    return next(helper.get_attribute_value(a) for a in node.attribute if a.name == "group"), sizes["w2"]


@pytest.mark.parametrize(
    ("prefer", "units", "after"),
    [("outer", [4, 6], (3, (9, 2, 3, 3))), ("inner", [4, 6], (3, (9, 2, 3, 3))), ("groups", [3], (1, (6, 4, 3, 3)))],
)
def test_channels_of_every_group_go_or_whole_groups(
    prefer: str, units: list[int], after: tuple[int, tuple[int, ...]]
) -> None:
    analysis = analysed(network(RESNEXT), prefer=prefer)
    assert [group.width for group in analysis.groups] == units
    kept = [np.arange(group.width) >= (group.width + 1) // 2 for group in analysis.groups]
    small = cut(analysis, kept)
    assert convolution(small.proto) == after
    assert check_cut(analysis, kept, small).exact


def test_whole_groups_are_not_taken_where_that_leaves_little_to_prune() -> None:
    """The two groups are summed up, so that one cannot go without the other: their channels can."""
    lines = [
        [(group.name, group.width) for group in analysed(network(RADIX), prefer=prefer).groups]
        for prefer in ("outer", "groups")
    ]
    assert lines[0] == lines[1]


def test_whole_groups_by_choice() -> None:
    settings = {"latency": False, "round_to": 1, "ratio": 0.34}
    assert convolution(onnxprune.prune(network(RESNEXT), granularity=("groups",), **settings).model)[0] == 2
    assert convolution(onnxprune.prune(network(RESNEXT), **settings).model)[0] == 3
    with pytest.raises(UsageError, match="one of heads, width and groups"):
        onnxprune.prune(network(RESNEXT), granularity=("groups", "width"))


# --- channels paired by rank ----------------------------------------------------------------------------------------


def plain_facts(model: ModelProto) -> Facts:
    loaded = load(model)
    return gather_facts(loaded, Graph(loaded.structure))


def outputs(model: ModelProto) -> np.ndarray:
    opened = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return opened.run(None, feeds(model))[0]


def silent(model: ModelProto, name: str, rows: list[int]) -> None:
    """Set rows of a stored tensor to zero."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    array = numpy_helper.to_array(tensor).copy()
    array[rows] = 0
    tensor.CopyFrom(numpy_helper.from_array(array, name))


SHUFFLE = RESNEXT.replace("w3 = %5x18x1x1; y = Conv(s, w3)", """
five = @[2, 3, 6, 4, 4]; t = Reshape(s, five); u = Transpose<perm=[0,2,1,3,4]>(t); four = @[2, 18, 4, 4]
v = Reshape(u, four); w3 = %9x6x1x1; a = Conv<group=3>(v, w3); w4 = %5x9x1x1; y = Conv(a, w4)""")  # fmt: skip
SHARED = """
w1 = %12x3x1x1; p = Conv(x, w1); w2 = %18x4x3x3; r = Conv<group=3,pads=[1,1,1,1]>(p, w2)
w5 = %18x6x3x3; s = Conv<group=2,pads=[1,1,1,1]>(p, w5); t = Add(r, s); w3 = %5x18x1x1; y = Conv(t, w3)
"""
BOUNDARY = "w2 = %9x2x3x3; y = Conv<group=3>(x, w2)"
PAIRED = {
    "resnext": (RESNEXT, "float[2,3,4,4] x", {"w1", "w2", "b2", "w3"}),
    "free batch": (RESNEXT, "float[batch,3,4,4] x", {"w1", "w2", "b2", "w3"}),
    "shuffle": (SHUFFLE, "float[2,3,4,4] x", {"w1", "w2", "w3", "w4"}),
    "two readers of other groups": (SHARED, "float[2,3,4,4] x", set()),
    "boundary": (BOUNDARY, "float[2,6,4,4] x", set()),
}


def reordered(model: ModelProto) -> ModelProto:
    return onnxprune.analyze(model, granularity=("paired",)).facts.model.proto


@pytest.mark.parametrize("name", PAIRED)
def test_reordering_changes_no_output_and_happens_once(name: str) -> None:
    body, inputs, _ = PAIRED[name]
    model = network(body, inputs, "float[batch,5,4,4] y" if "batch" in inputs else "float[] y")
    once = reordered(model)
    np.testing.assert_allclose(outputs(once), outputs(model), rtol=1e-4, atol=1e-4)
    assert reordered(once) == once
    changed = {a.name for a, b in zip(model.graph.initializer, once.graph.initializer, strict=True) if a != b}
    assert changed == PAIRED[name][2]
    assert list(model.graph.node) == list(once.graph.node)


def test_silent_channels_at_different_places_of_their_groups_go_together() -> None:
    """Half of the channels of every group are zero, each time others: without them nothing changes."""
    model = network(RESNEXT)
    silent(model, "w1", [0, 1, 4, 7, 9, 10])
    silent(model, "w2", [0, 1, 2, 9, 10, 11, 12, 14, 16])
    silent(model, "b2", [0, 1, 2, 9, 10, 11, 12, 14, 16])
    settings = {"latency": False, "round_to": 1, "ratio": 0.5, "include": ("w1", "w2")}
    small = onnxprune.prune(model, granularity=("paired",), **settings).model
    assert convolution(small) == (3, (9, 2, 3, 3))
    np.testing.assert_allclose(outputs(small), outputs(model), rtol=1e-4, atol=1e-4)
    by_index = onnxprune.prune(model, **settings).model
    assert np.abs(outputs(by_index) - outputs(model)).max() > 0.1


def test_a_paired_plan_is_replayed() -> None:
    model = network(RESNEXT, "float[batch,3,4,4] x", "float[batch,5,4,4] y")
    result = onnxprune.prune(model, granularity=("paired",), latency=False, round_to=1)
    assert result.report["surgery"]["exact"]
    again = onnxprune.apply(from_json(result.plan.to_json()), model, latency=False)
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)
