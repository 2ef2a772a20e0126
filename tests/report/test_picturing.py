"""The graph in a report: every node with weights once, what it costs, how wide it writes, and what became of it."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases import PATTERNS
from onnx import helper, numpy_helper
from support.oracles import analysed, random_plan
from support.patterns import Pattern

import onnxprune
from onnxprune import api
from onnxprune.allocate.account import model_totals
from onnxprune.coupling.kept import Kept
from onnxprune.report import picturing
from onnxprune.report.documents import render

MODELS = Path(__file__).parents[2] / "models"
CNN = MODELS / "digits_cnn.onnx"


@pytest.fixture(scope="module")
def pruned() -> dict[str, Any]:
    return json.loads(render("json", onnxprune.prune(CNN, latency=False, ratio=0.5).report))


def total(rows: list[dict[str, Any]], key: str) -> int:
    return sum(row[key] for row in rows)


def test_costs_of_nodes_add_up_to_those_of_the_model(pruned: dict[str, Any]) -> None:
    rows = pruned["graph"]["nodes"]
    assert total(rows, "macs_before") == pruned["before"]["macs"]
    assert total(rows, "macs_after") == pruned["after"]["macs"]
    assert pruned["graph"]["of"] == len(rows)


def test_widths_are_those_of_the_groups(pruned: dict[str, Any]) -> None:
    """Of nodes without weights too: an Add gives what its stream has left."""
    rows = {row["node"]: row for row in pruned["graph"]["nodes"]}
    for group in pruned["groups"]:
        row = rows[group["node"]]
        assert (row["width_before"], row["width_after"]) == (group["width_before"], group["width_after"])
    add, stem = rows["/identity/Add"], rows["/stem/stem.0/stem.0.0/Conv"]
    assert (add["status"], add["width_after"]) == (None, stem["width_after"])
    assert {row["status"] for row in rows.values()} <= {"pruned", "kept", "frozen", None}


def test_nodes_read_earlier_ones_and_what_follows_is_named(pruned: dict[str, Any]) -> None:
    graph = pruned["graph"]
    for number, row in enumerate(graph["nodes"]):
        assert all(-len(graph["inputs"]) <= source < number for source in row["reads"])
    assert graph["nodes"][0]["then"] == ["BatchNormalization", "Relu"] and graph["nodes"][0]["reads"] == [-1]
    assert graph["outputs"] == [{"name": "logits", "node": len(graph["nodes"]) - 1}]


def test_a_model_as_it_is_has_its_graph_undecided() -> None:
    rows = api.inspect(CNN)["graph"]["nodes"]
    assert all(row["width_before"] == row["width_after"] for row in rows)
    assert {row["status"] for row in rows} == {"kept", None}


def net(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], out: str) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 8])]
    outputs = [helper.make_tensor_value_info(out, onnx.TensorProto.FLOAT, None)]
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "net", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_computing_of_shapes_is_not_drawn_and_diamonds_of_activations_are_one_node() -> None:
    """x * sigmoid(x) and a reshape by the shape of another value belong to the product before them."""
    random = np.random.default_rng(0)
    weights = {"w": random.normal(size=(8, 16)).astype(np.float32), "v": random.normal(size=(16, 4)).astype(np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("Sigmoid", ["h"], ["s"]),
        helper.make_node("Mul", ["h", "s"], ["silu"]),
        helper.make_node("Shape", ["silu"], ["shape"]),
        helper.make_node("Reshape", ["silu", "shape"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"], name="second"),
    ]
    rows = api.inspect(net(nodes, weights, "y"))["graph"]["nodes"]
    assert [(row["node"], row["then"], row["reads"]) for row in rows] == [
        ("first", ["Sigmoid", "Mul", "Reshape"], [-1]),
        ("second", [], [0]),
    ]


def test_what_cannot_be_cut_says_why() -> None:
    weights = {"w": np.ones((8, 8), np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="only")]
    (row,) = api.inspect(net(nodes, weights, "y"))["graph"]["nodes"]
    assert row["status"] == "frozen" and "model's" in row["reason"]


def test_weights_that_two_nodes_share_count_once_and_belong_to_both() -> None:
    """As of a recurrent layer that is written out: each step has the weights, the first one their parameters."""
    weights = {"w": np.ones((8, 8), np.float32)}
    twice = [helper.make_node("MatMul", [one, "w"], [two], name=two) for one, two in (("x", "a"), ("a", "b"))]
    added = [helper.make_node("Add", ["a", "b"], ["y"], name="y")]
    for nodes, out in ((twice, "b"), (twice + added, "y")):
        rows = api.inspect(net(nodes, weights, out))["graph"]["nodes"]
        assert [row["status"] for row in rows[:2]] == (["kept"] * 2 if out == "b" else ["frozen"] * 2)
        assert [row["parameters_before"] for row in rows[:2]] == [64, 0]


@pytest.mark.parametrize("pattern", PATTERNS[::5], ids=lambda pattern: pattern.name)
def test_graphs_of_all_kinds_have_the_costs_of_their_cuts(pattern: Pattern) -> None:
    """Of what other tools break on: MACs of nodes add up to those of the model, whole and cut at random; what stays says why."""
    analysis = analysed(pattern.model(), pattern.allow)
    kept = Kept.of(analysis, random_plan(analysis, np.random.default_rng(zlib.crc32(pattern.name.encode()))))
    rows = picturing.graph_entry(analysis, kept)["nodes"]
    for when, widths in (("before", analysis.widths), ("after", kept.widths)):
        assert total(rows, f"macs_{when}") == model_totals(analysis, widths)["macs"]
    assert all(source < number for number, row in enumerate(rows) for source in row["reads"])
    assert all(row["reason"] for row in rows if row["status"] == "frozen")


def test_branches_that_went_are_removed_in_the_picture() -> None:
    report = onnxprune.prune(CNN, granularity="block", target="macs=70%", latency=False).report
    gone = {label for row in report["blocks"] if row["status"] == "removed" for label in row["nodes"]}
    removed = [row for row in report["graph"]["nodes"] if row["status"] == "removed"]
    assert removed and {row["node"] for row in removed} <= gone
    assert total(removed, "macs_after") == 0
    assert total(report["graph"]["nodes"], "macs_after") == report["after"]["macs"]


def test_a_graph_of_too_many_nodes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picturing, "MOST_NODES", 5)
    graph = api.inspect(CNN)["graph"]
    assert (len(graph["nodes"]), graph["of"], graph["outputs"]) == (5, 20, [])
    render("html", api.inspect(CNN))
