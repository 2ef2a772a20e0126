"""Residual branches: which there are, that removing them is silencing them, which ones go, and whole runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, numpy_helper
from support.networks import feeds, network
from support.oracles import LEVELS, analysed

import onnxprune
from onnxprune.allocate import parse_ratio, parse_target
from onnxprune.changes.branches import (
    BlockCosts,
    Silencing,
    choose_blocks,
    prunable_blocks,
    weight_gains,
    without_blocks,
)
from onnxprune.changes.branches.space import Branches
from onnxprune.changes.change import Change
from onnxprune.changes.context import Context
from onnxprune.changes.plan import Planned
from onnxprune.coupling.blocks import Block, Flow, find_blocks
from onnxprune.coupling.groups import Analysis
from onnxprune.data import input_specs, open_dataset
from onnxprune.errors import PlanError, TargetError, UsageError
from onnxprune.model import read
from onnxprune.model.model import Model
from onnxprune.proof.check import SurgeryCheck
from onnxprune.settings import Settings

MODELS = Path(__file__).parents[2] / "models"
CNN, TRANSFORMER = MODELS / "digits_cnn.onnx", MODELS / "digits_transformer.onnx"
CALIB, TEST = MODELS / "digits_calib.npz", MODELS / "digits_test.npz"

IDENTITY = """
w1 = %4x3x1x1; p = Conv(x, w1); q = Relu(p)
b_w = %3x4x1x1; b = Conv(q, b_w); s = Add(b, x); w2 = %5x3x1x1; y = Conv(s, w2)
"""
PROJECTION = """
w1 = %4x3x1x1; p = Conv(x, w1)
w2 = %6x4x3x3; q = Conv<pads=[1,1,1,1]>(p, w2); r = Relu(q); b_w = %6x6x1x1; b = Conv(r, b_w)
c_w = %6x4x1x1; c = Conv(p, c_w); s = Add(b, c); y = Relu(s)
"""
NESTED = """
o_w1 = %3x3x1x1; o1 = Conv(x, o_w1)
i_w = %3x3x1x1; i = Conv(o1, i_w); t = Add(o1, i)
o_w = %3x3x1x1; o = Conv(t, o_w); y = Sum(x, o)
"""
SHARED = """
w = %3x3x1x1; p = Conv(x, w); b_w = %3x3x1x1; b = Conv(p, b_w); s = Add(x, b)
q = Conv(s, w); c_w = %3x3x1x1; c = Conv(q, c_w); y = Add(s, c)
"""
BODY = """
b_w = %3x3x1x1; b = Conv(x, b_w); s = Add(x, b)
y = If(flag) <
  then_branch = g1 () => (float[2,3,4,4] u) { u = Relu(s) },
  else_branch = g2 () => (float[2,3,4,4] v) { v = Neg(s) }>
"""
MASKED = """
b_w = %3x3x1x1; bm = Mul(x, m); b = Conv(bm, b_w); s = Add(x, b)
c_w = %3x3x1x1; cm = Mul(s, m); c = Conv(cm, c_w); y = Add(s, c)
"""
ATTENTION = """
ones = %+8; zeros = %8; n1 = LayerNormalization(x, ones, zeros); half = @0.5
q_w = %8x8; q = MatMul(n1, q_w); k_w = %8x8; k = MatMul(n1, k_w); v_w = %8x8; v = MatMul(n1, v_w)
four = @[0, 0, 2, 4]; q4 = Reshape(q, four); k4 = Reshape(k, four); v4 = Reshape(v, four)
qh = Transpose<perm=[0,2,1,3]>(q4); kh = Transpose<perm=[0,2,3,1]>(k4); vh = Transpose<perm=[0,2,1,3]>(v4)
score = MatMul(qh, kh); scaled = Mul(score, half); p = Softmax(scaled); mix = MatMul(p, vh)
back = Transpose<perm=[0,2,1,3]>(mix); three = @[0, 0, 8]; flat = Reshape(back, three)
a_w = %8x8; a = MatMul(flat, a_w); s = Add(x, a)
n2 = LayerNormalization(s, ones, zeros); u_w = %8x16; u = MatMul(n2, u_w); g = Relu(u)
f_w = %16x8; f = MatMul(g, f_w); t = Add(s, f); h_w = %8x5; y = MatMul(t, h_w)
"""
NOTHING = """
w = %3x3x1x1; p = Conv(x, w); bias = %3x1x1; shifted = Add(p, bias); gate = Sigmoid(shifted); gated = Mul(p, gate)
c = %2x3x4x4; t1 = Mul(gated, c); t2 = Neg(gated); turned = Add(t1, t2)
z = Conv(x, w); pooled = GlobalAveragePool(z); wide = Add(turned, pooled); y = Add(wide, wide)
"""
EMBEDDED = """
table = %7x4; places = %5x4; a = Gather(table, x); b = Gather(places, p); s = Add(a, b); w = %4x3; y = MatMul(s, w)
"""

IMAGE = {"inputs": "float[2,3,4,4] x"}
NETS: dict[str, tuple[str, dict[str, str], str]] = {
    "identity": (IDENTITY, IMAGE, "b"),
    "projection": (PROJECTION, IMAGE, "b c"),
    "nested": (NESTED, IMAGE, "i o"),
    "shared": (SHARED, IMAGE, "b c"),
    "body": (BODY, {"inputs": "float[2,3,4,4] x, bool flag"}, "b"),
    "masked": (MASKED, {"inputs": "float[2,3,4,4] x, float[2,3,4,4] m"}, "b c"),
    "attention": (ATTENTION, {"inputs": "float[batch,4,8] x", "outputs": "float[batch,4,5] y"}, "a f"),
    "free length": (ATTENTION, {"inputs": "float[batch,length,8] x", "outputs": "float[batch,length,5] y"}, "a f"),
    "nothing": (NOTHING, IMAGE, ""),
    "embedded": (EMBEDDED, {"inputs": "int64[2,3] x, int64[2,3] p"}, ""),
}


def made(name: str) -> tuple[ModelProto, Analysis, Flow, dict[str, Block]]:
    body, ends, _ = NETS[name]
    model = network(body, **ends)
    analysis = analysed(model)
    flow = Flow(analysis.facts.graph)
    return model, analysis, flow, {block.name: block for block in find_blocks(analysis, flow)}


def run(model: ModelProto, inputs: dict[str, np.ndarray], level: object = LEVELS[0]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    opened = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return opened.run(None, inputs)


def muted(model: ModelProto, names: list[str]) -> ModelProto:
    """The original in which the last weights of each branch are zero, an oracle that shares no code with the product."""
    result = ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        if tensor.name in [f"{name}_w" for name in names]:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))
    return result


def checked(analysis: Analysis, block: Block, small: Model) -> SurgeryCheck:
    space = Branches(Context(analysis, analysis.facts.model, Settings(granularity=("block",))))
    return Change(space, (block,)).checked(small)


def stored(model: ModelProto) -> set[str]:
    return {tensor.name for tensor in model.graph.initializer}


@pytest.mark.parametrize("name", NETS)
def test_branches_are_found_without_knowing_any_block(name: str) -> None:
    assert " ".join(made(name)[3]) == NETS[name][2]


@pytest.mark.parametrize(("name", "branch"), [(name, b) for name, (*_, found) in NETS.items() for b in found.split()])
def test_removing_a_branch_is_silencing_it(name: str, branch: str) -> None:
    model, analysis, flow, blocks = made(name)
    cut_model = without_blocks(analysis.facts, flow, [blocks[branch]])
    small = cut_model.proto
    read.check_structure(cut_model, "the smaller model", full=True)
    inputs = feeds(model, free=3)
    for level in LEVELS:
        for want, have in zip(run(muted(model, [branch]), inputs), run(small, inputs, level), strict=True):
            np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)
    assert checked(analysis, blocks[branch], cut_model).exact
    assert f"{branch}_w" not in stored(small)
    assert [v.name for v in (*small.graph.input, *small.graph.output)] == [
        v.name for v in (*model.graph.input, *model.graph.output)
    ]


@pytest.mark.parametrize("name", [name for name, (*_, found) in NETS.items() if found])
def test_removing_all_that_can_go_is_silencing_them(name: str) -> None:
    model, analysis, flow, blocks = made(name)
    costs = BlockCosts(analysis, flow)
    chosen = prunable_blocks(tuple(blocks.values()), costs)
    small = without_blocks(analysis.facts, flow, chosen).proto
    inputs = feeds(model)
    for want, have in zip(run(muted(model, [b.name for b in chosen]), inputs), run(small, inputs), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)
    left = analysed(small)
    assert sum(v.at(left.widths) for v in left.parameters) == costs.totals(chosen)["parameters"]
    assert sum(v.at(left.widths) for v in left.macs) == costs.totals(chosen)["macs"]


def test_the_check_tells_a_removal_that_is_wrong() -> None:
    _, analysis, flow, blocks = made("shared")
    cut_model = without_blocks(analysis.facts, flow, [blocks["b"]])
    assert not checked(analysis, blocks["c"], cut_model).exact


def test_a_sum_that_is_an_output_becomes_an_identity() -> None:
    _, analysis, flow, blocks = made("nested")
    small = without_blocks(analysis.facts, flow, [blocks["o"]]).proto
    assert [(node.op_type, node.input[0], node.output[0]) for node in small.graph.node] == [("Identity", "x", "y")]
    assert not stored(small)


def test_what_is_said_about_removed_values_goes_and_the_rest_stays() -> None:
    model = network(IDENTITY)
    model.graph.value_info.extend(onnx.shape_inference.infer_shapes(model).graph.value_info)
    for number, node in enumerate(model.graph.node):
        node.name, node.doc_string = f"node {number}", "a note"
    model.metadata_props.add(key="who", value="me")
    analysis = analysed(model)
    flow = Flow(analysis.facts.graph)
    small = without_blocks(analysis.facts, flow, find_blocks(analysis, flow)).proto
    assert not small.graph.value_info
    last = onnx.NodeProto()
    last.CopyFrom(model.graph.node[-1])
    last.input[0] = "x"
    assert list(small.graph.node) == [last]
    assert small.metadata_props == model.metadata_props


def test_shared_weights_go_with_their_last_reader() -> None:
    _, analysis, flow, blocks = made("shared")
    costs = BlockCosts(analysis, flow)
    assert [costs.saved(blocks[name])["parameters"] for name in "bc"] == [9, 9]
    assert costs.totals(list(blocks.values()))["parameters"] == 0
    assert costs.totals()["parameters"] == 27


def test_one_operand_of_a_sum_stays_and_no_input_loses_its_last_reader() -> None:
    for name, scores, expected in (("projection", [1.0, 2.0], "b"), ("masked", [2.0, 1.0], "c")):
        _, analysis, flow, blocks = made(name)
        costs = BlockCosts(analysis, flow)
        chosen = choose_blocks(tuple(blocks.values()), np.array(scores), costs, parse_ratio(0.99))
        assert [block.name for block in chosen] == [expected]


def test_an_outer_branch_swallows_the_inner_ones() -> None:
    _, analysis, flow, blocks = made("nested")
    costs, both = BlockCosts(analysis, flow), tuple(blocks.values())
    assert [b.name for b in choose_blocks(both, np.array([1.0, 2.0]), costs, parse_ratio(0.99))] == ["o"]
    assert [b.name for b in choose_blocks(both, np.array([1.0, 2.0]), costs, parse_ratio(0.5))] == ["i"]
    assert [b.name for b in choose_blocks(both, np.array([2.0, 1.0]), costs, parse_ratio(0.5))] == ["i"]


def test_a_budget_is_met_and_not_one_branch_too_many_goes() -> None:
    analysis = onnxprune.analyze(TRANSFORMER)
    flow = Flow(analysis.facts.graph)
    blocks, costs = find_blocks(analysis, flow), BlockCosts(analysis, flow)
    scores = np.random.default_rng(3).uniform(size=len(blocks))
    for target in (parse_target("macs=70%"), parse_target("params=45%"), parse_target("size=500KB")):
        kind = {"params": "parameters", "size": "bytes"}.get(target.kind, target.kind)
        limit = target.budget(costs.totals()[kind])
        chosen = choose_blocks(blocks, scores, costs, target)
        assert costs.totals(chosen)[kind] <= limit
        for block in chosen:
            assert costs.totals([other for other in chosen if other is not block])[kind] > limit
    with pytest.raises(TargetError, match="out of reach") as caught:
        choose_blocks(blocks, scores, costs, parse_target("macs=0.01%"))
    assert caught.value.best == costs.totals(prunable_blocks(blocks, costs))["macs"]


def test_effects_are_the_divergence_and_the_energy_of_the_branch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("b_w = %3x3; b = MatMul(x, b_w); y = Add(x, b)", "float[n,3] x", "float[n,3] y")
    analysis = analysed(model)
    flow = Flow(analysis.facts.graph)
    rows = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    data = open_dataset(rows, input_specs(model))
    blocks = find_blocks(analysis, flow)
    silencing = Silencing(analysis.facts, flow, blocks, data)
    found = silencing.effects()
    branch = rows @ numpy_helper.to_array(model.graph.initializer[0])
    np.testing.assert_allclose(found.energy, np.square(branch).sum() / np.square(rows + branch).sum(), rtol=1e-5)
    want, have = (values - np.log(np.exp(values).sum(1, keepdims=True)) for values in (rows + branch, rows))
    np.testing.assert_allclose(found.divergence, (np.exp(want) * (want - have)).sum(1).mean(), rtol=1e-5)
    runs, run = [], silencing._session.run
    monkeypatch.setattr(silencing, "_session", SimpleNamespace(run=lambda *given: runs.append(given) or run(*given)))
    assert silencing.together(blocks) == found.divergence[0]
    silent = len(runs)
    silencing._held.clear()
    assert silencing.together(blocks) == found.divergence[0]
    assert len(runs) == 3 * silent, "what the whole model says was known"


def test_branches_are_judged_again_given_those_that_went() -> None:
    """Each of two branches alone costs little; together they cost much, so that a third goes instead of the second."""
    analysis = onnxprune.analyze(TRANSFORMER)
    flow = Flow(analysis.facts.graph)
    blocks, costs = find_blocks(analysis, flow), BlockCosts(analysis, flow)
    scores = np.array([1.0, 2.0, 3.0, 9.0, 9.0, 9.0])

    def together(removed: Sequence[Block]) -> float:
        alone = sum(scores[blocks.index(block)] for block in removed)
        return alone + (10.0 if {blocks[0], blocks[1]} <= set(removed) else 0.0)

    ratio = parse_ratio(2 / 6)
    assert choose_blocks(blocks, scores, costs, ratio) == (blocks[0], blocks[1])
    assert choose_blocks(blocks, scores, costs, ratio, together) == (blocks[0], blocks[2])


# --- whole runs -----------------------------------------------------------------------------------------------------


def prune(model: object, **settings: object) -> onnxprune.Result:
    return onnxprune.prune(model, **({"latency": False, "granularity": ("block",)} | settings))


@pytest.mark.parametrize(("path", "least"), [(CNN, 0.97), (TRANSFORMER, 0.8)], ids=["cnn", "transformer"])
def test_bundled_models_lose_branches_exactly(path: Path, least: float, tmp_path: Path) -> None:
    result = prune(path, ratio=0.34, calibration=CALIB, evaluation=TEST, output=tmp_path / "a.onnx")
    report = result.report
    assert report["surgery"]["exact"]
    assert report["task"]["after"] > least
    rebuilt = onnxprune.analyze(result.model)
    assert report["after"]["parameters"] == sum(v.at(rebuilt.widths) for v in rebuilt.parameters)
    assert report["after"]["bytes"] == (tmp_path / "a.onnx").stat().st_size
    assert [b["name"] for b in report["blocks"] if b["status"] == "removed"] == list(result.plan.blocks)
    (tmp_path / "plan.json").write_text(result.plan.to_json())
    for number, again in enumerate(("prune", "apply")):
        output = tmp_path / f"{number}.onnx"
        if again == "prune":
            prune(path, ratio=0.34, calibration=CALIB, output=output)
        else:
            onnxprune.apply(tmp_path / "plan.json", path, output=output, latency=False)
        assert output.read_bytes() == (tmp_path / "a.onnx").read_bytes()


def test_without_data_the_weights_decide() -> None:
    model = network(SHARED, seed=1)
    for tensor in model.graph.initializer:
        if tensor.name == "c_w":
            tensor.CopyFrom(numpy_helper.from_array(1e-3 * numpy_helper.to_array(tensor), "c_w"))
    assert prune(model, ratio=0.5).plan.blocks == ("c",) == onnxprune.plan(model, granularity=("block",)).blocks


def test_patterns_choose_among_the_branches() -> None:
    names = [block["name"] for block in onnxprune.api.inspect(TRANSFORMER)["blocks"]]
    assert prune(TRANSFORMER, ratio=0.9, include=("linear_6",)).plan.blocks == ("linear_6",)
    assert "linear_6" not in prune(TRANSFORMER, ratio=0.99, exclude=("linear_6",)).plan.blocks
    assert len(names) == 6
    with pytest.raises(UsageError, match="matches no branch"):
        prune(TRANSFORMER, include=("nowhere",))


def test_a_branch_that_cannot_go_exactly_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Branches.checked

    def blaming(space, change, small):
        found = real(space, change, small)
        return replace(found, exact=found.exact and all(block.name != "linear_12" for block in change.parts))

    monkeypatch.setattr(Branches, "checked", blaming)
    report = prune(TRANSFORMER, ratio=0.99).report
    assert report["surgery"]["frozen_by_check"] == ["linear_12"]
    status = {block["name"]: block["status"] for block in report["blocks"]}
    assert status.pop("linear_12") == "frozen"
    assert set(status.values()) == {"removed"}
    with pytest.raises(TargetError, match="no branch of this model can go exactly"):
        prune(TRANSFORMER, ratio=0.99, include=("linear_12",))


def test_what_cannot_be_is_refused() -> None:
    for wrong in ({"criterion": "l1"}, {"repair": "bias"}, {"search": 1.0}, {"target": "latency=0.5x"}):
        with pytest.raises(UsageError, match="granularity block"):
            prune(CNN, **wrong)
    with pytest.raises(TargetError, match="no sum"):
        prune(network(NOTHING))
    plan = prune(network(IDENTITY)).plan
    with pytest.raises(PlanError, match="SHA-256"):
        onnxprune.apply(plan, network(PROJECTION), latency=False)
    with pytest.raises(PlanError, match="does not have"):
        onnxprune.apply(
            replace(plan, steps=(Planned("block", {"blocks": ["gone"]}),)), network(IDENTITY), latency=False
        )


def test_weights_are_judged_by_their_gain() -> None:
    """Orthogonal matrices and kernels of one number per channel keep a random input's deviation times their factor."""
    model = network("b_w = %4x4; b = MatMul(x, b_w); y = Add(x, b)", "float[n,4] x", "float[n,4] y")
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(3 * np.eye(4, dtype=np.float32), "b_w"))
    analysis = analysed(model)
    assert weight_gains(analysis.facts, find_blocks(analysis, Flow(analysis.facts.graph))) == pytest.approx([3.0])
    kernel = network("b_w = %3x1x1x1; b = Conv<group=3>(x, b_w); y = Add(x, b)")
    kernel.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((3, 1, 1, 1), -2, np.float32), "b_w"))
    analysis = analysed(kernel)
    assert weight_gains(analysis.facts, find_blocks(analysis, Flow(analysis.facts.graph))) == pytest.approx([2.0])
