"""Whole experts of mixtures: in every form the result is the original in which no token is sent to those that went."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import ModelProto, helper, numpy_helper
from support.mixtures import (
    EXPERTS,
    FORMS,
    NUMBERS,
    PICKED,
    PLACED,
    ROUTED,
    between,
    built,
    chained,
    fused,
    gathered,
    node,
    picked_first,
    quantised,
    spelled_out,
    stacked,
    summed,
    switched,
    tiled,
    weights,
)
from support.oracles import LEVELS

import onnxprune
from onnxprune.api import inspect
from onnxprune.changes.plan import from_json
from onnxprune.cli import main
from onnxprune.errors import ModelError, PlanError, TargetError, UsageError

X = np.random.default_rng(3).standard_normal((64, 5)).astype(np.float32)
FEW = X[:7]
SETTINGS = {"granularity": "experts", "latency": False, "repair": "none"}


def run(model: ModelProto, level: ort.GraphOptimizationLevel = LEVELS[0], x: np.ndarray = FEW) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(
        ["y"], {"x": x}
    )[0]


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def by_hand(x: np.ndarray, gone: set[int]) -> np.ndarray:
    """The mixture in numpy, where the experts that went are scored with minus infinity."""
    w = weights()
    h = np.maximum(x @ w["wi"], 0)
    scores = h @ w["wr"] + w["br"]
    scores[:, sorted(gone)] = -np.inf
    found = np.array(h)
    for token, row in enumerate(softmax(scores)):
        picked = np.argsort(-row, kind="stable")[:PICKED]
        for e in picked:
            inner = np.maximum(h[token] @ w["w1"][e] + w["b1"][e, 0], 0)
            found[token] += row[e] / row[picked].sum() * (inner @ w["w2"][e] + w["b2"][e, 0])
    return found @ w["wo"]


def removed(report: dict) -> set[int]:
    return {row["expert"] for row in report["experts"] if row["status"] == "removed"}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_masked_original(form: str) -> None:
    model = FORMS[form]()
    np.testing.assert_allclose(run(model), by_hand(FEW, set()), atol=1e-5)
    result = onnxprune.prune(model, ratio=0.5, calibration={"x": X}, **SETTINGS)
    report, gone = result.report, removed(result.report)
    assert report["surgery"]["exact"] and len(gone) == 3
    assert (
        report["after"]["parameters"] == report["before"]["parameters"] - 3 * 187
    )  # 8 x 10 + 10 + 10 x 8 + 8 and 9 of the router
    for level in LEVELS:
        np.testing.assert_allclose(run(result.model, level), by_hand(FEW, gone), atol=1e-5)
    onnx.checker.check_model(result.model, full_check=form != "fused")
    stored = {tensor.name for tensor in result.model.graph.initializer}
    read = {name for n in result.model.graph.node for name in n.input}
    assert stored <= read and not any(re.fullmatch(f"[wb][12]_{e}", name) for e in gone for name in stored)
    again = onnxprune.apply(result.plan, model, latency=False)
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)


def test_all_forms_come_to_the_same_experts() -> None:
    shares = []
    for form in FORMS.values():
        report = onnxprune.prune(form(), ratio=0.5, calibration={"x": X}, **SETTINGS).report
        shares.append([row["routing"] for row in report["experts"]])
        assert sum(shares[-1]) == pytest.approx(1)
    np.testing.assert_allclose(shares, np.tile(shares[0], (len(shares), 1)), atol=1e-6)


def test_routing_mass_is_what_tokens_give() -> None:
    w = weights()
    rows = softmax(np.maximum(X @ w["wi"], 0) @ w["wr"] + w["br"])
    expected = np.zeros(EXPERTS)
    for row in rows:
        picked = np.argsort(-row, kind="stable")[:PICKED]
        expected[picked] += row[picked] / row[picked].sum() / len(rows)
    report = onnxprune.prune(stacked(), ratio=0.5, criterion="routing-mass", calibration={"x": X}, **SETTINGS).report
    np.testing.assert_allclose([row["routing"] for row in report["experts"]], expected, atol=1e-6)
    assert removed(report) == set(np.argsort(expected)[:3].tolist())
    assert [row["score"] for row in report["experts"]] == pytest.approx((expected * EXPERTS).tolist(), abs=1e-5)


def test_packed_experts_go_whole() -> None:
    model = quantised()
    result = onnxprune.prune(model, ratio=0.5, calibration={"x": X}, **SETTINGS)
    assert result.report["surgery"]["exact"]
    held = {t.name: tuple(t.dims) for t in result.model.graph.initializer}
    assert held["w1"] == (3, 10, 8) and held["sw2"] == (3, 8) and held["wr"] == (8, 3)
    assert np.abs(run(result.model) - by_hand(FEW, removed(result.report))).max() < 0.05


def test_weights_alone_and_chance_choose_too() -> None:
    w = weights()
    norms = [sum(float((w[n][e].astype(float) ** 2).sum()) for n in ("w1", "b1", "w2", "b2")) for e in range(EXPERTS)]
    for form in ("stacked", "gather", "one-hot"):
        report = onnxprune.prune(FORMS[form](), ratio=0.5, **SETTINGS).report
        assert removed(report) == set(np.argsort(norms)[:3].tolist())
        assert {row["routing"] for row in report["experts"]} == {None}
    chosen = {
        tuple(sorted(removed(onnxprune.prune(stacked(), ratio=0.5, criterion="random", seed=s, **SETTINGS).report)))
        for s in range(4)
    }
    assert len(chosen) > 1
    with pytest.raises(UsageError, match="give calibration data"):
        onnxprune.prune(stacked(), criterion="routing-mass", **SETTINGS)
    with pytest.raises(UsageError, match="add granularity experts"):
        onnxprune.prune(stacked(), criterion="routing-mass", calibration={"x": X}, latency=False)


def test_as_many_stay_as_are_picked() -> None:
    result = onnxprune.prune(stacked(), ratio=0.9, calibration={"x": X}, **SETTINGS)
    assert len(removed(result.report)) == EXPERTS - PICKED
    assert any("4 of 5 experts go" in text for text in result.report["warnings"])
    few = onnxprune.prune(stacked(), ratio=0.9, min_width=4, **SETTINGS).report
    assert len(removed(few)) == 2
    every = fused(k=EXPERTS)
    with pytest.raises(TargetError, match="no expert of this model can go"):
        onnxprune.prune(every, **SETTINGS)
    (row,) = inspect(every, granularity="experts")["experts"]
    assert row["status"] == "kept" and "as many as are picked" in row["reason"] and row["experts"] == EXPERTS


@pytest.mark.parametrize(("kind", "key"), [("params", "parameters"), ("macs", "macs"), ("size", "bytes")])
def test_budgets_hold(kind: str, key: str) -> None:
    for form in ("stacked", "split"):
        report = onnxprune.prune(FORMS[form](), target=f"{kind}=70%", calibration={"x": X}, **SETTINGS).report
        assert report["after"][key] <= 0.7 * report["before"][key] and 1 < len(removed(report)) < 4
    with pytest.raises(TargetError, match="without every expert that can go"):
        onnxprune.prune(stacked(), target=f"{kind}=5%", **SETTINGS)


def test_repair_brings_outputs_back() -> None:
    for form in ("fused", "stacked", "one-hot"):
        plain = onnxprune.prune(FORMS[form](), ratio=0.5, calibration={"x": X}, **SETTINGS)
        mended = onnxprune.prune(
            FORMS[form](), ratio=0.5, calibration={"x": X}, **{**SETTINGS, "repair": "least-squares"}
        )
        fresh = np.random.default_rng(9).standard_normal((200, 5)).astype(np.float32)
        before = run(FORMS[form](), x=fresh)
        errors = [float(np.square(run(found.model, x=fresh) - before).mean()) for found in (plain, mended)]
        assert errors[1] < 0.9 * errors[0]


def test_numbers_that_are_given_out_are_the_originals() -> None:
    model = stacked()
    model.graph.output.append(helper.make_tensor_value_info("i", 7, ["t", PICKED]))
    result = onnxprune.prune(model, ratio=0.5, calibration={"x": X}, **SETTINGS)
    stays = set(range(EXPERTS)) - removed(result.report)
    opened = ort.InferenceSession(result.model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert set(opened.run(["i"], {"x": X})[0].reshape(-1).tolist()) == stays
    assert result.report["surgery"]["exact"]


def test_scores_that_are_outputs_keep_their_experts() -> None:
    model = stacked()
    model.graph.output.append(helper.make_tensor_value_info("p", 1, ["t", EXPERTS]))
    with pytest.raises(TargetError, match="no expert"):
        onnxprune.prune(model, **SETTINGS)
    (row,) = inspect(model, granularity="experts")["experts"]
    assert row["reason"] == "axis 1 of the model's output 'p'"


def two_layers(shared_router: bool, shared_experts: bool) -> ModelProto:
    """A second mixture behind the first, fused both: with the first's router or experts, or with its own."""
    w, other = weights(), weights(1)
    stored = {n: w[n] for n in ("wi", "wr", "br", "wo")} | {"wr2": other["wr"], "br2": other["br"]}
    for tag, own in (("", w), ("2", w if shared_experts else other)):
        for name in ("w1", "w2"):
            stored[name + tag] = own[name].transpose(0, 2, 1).copy()
        stored[f"b1{tag}"], stored[f"b2{tag}"] = own["b1"][:, 0], own["b2"][:, 0]
    names = [n if shared_experts else f"{n}2" for n in ("w1", "b1", "w2", "b2")]
    scores = "logits" if shared_router else "logits2"
    given = {"k": PICKED, "activation_type": "relu", "domain": "com.microsoft"}
    nodes = [
        node("MatMul", ["x", "wi"], ["h"]), node("MatMul", ["h", "wr"], ["l0"]), node("Add", ["l0", "br"], ["logits"]),
        node("MoE", ["h", "logits", "w1", "b1", "w2", "b2"], ["m"], **given), node("Add", ["h", "m"], ["g"]),
        node("MatMul", ["g", "wr2"], ["l2"]), node("Add", ["l2", "br2"], ["logits2"]),
        node("MoE", ["g", scores, *names], ["m2"], **given), node("Add", ["g", "m2"], ["res"]), node("MatMul", ["res", "wo"], ["y"]),
    ]  # fmt: skip
    return built(nodes if not shared_router else [n for n in nodes if n.output[0] not in ("l2", "logits2")], stored)


@pytest.mark.parametrize(("router", "experts", "layers"), [(True, False, 1), (False, True, 1), (False, False, 2)])
def test_what_layers_share_goes_from_both(router: bool, experts: bool, layers: int) -> None:
    model = two_layers(router, experts)
    result = onnxprune.prune(model, ratio=0.5, criterion="routing-mass", calibration={"x": X}, **SETTINGS)
    rows = result.report["experts"]
    assert result.report["surgery"]["exact"] and len({row["layer"] for row in rows}) == layers
    assert len([row for row in rows if row["status"] == "removed"]) == 3 * layers
    assert {t.dims[0] for t in result.model.graph.initializer if t.name[:2] in ("w1", "w2")} == {3}


def test_layers_lose_alike_or_as_all_together() -> None:
    model = two_layers(False, False)
    report = onnxprune.prune(
        model, ratio=0.4, criterion="routing-mass", scope="global", calibration={"x": X}, **SETTINGS
    ).report
    gone = sorted((row for row in report["experts"] if row["status"] == "removed"), key=lambda row: row["score"])
    stays = [row["score"] for row in report["experts"] if row["status"] == "kept"]
    assert len(gone) == 5 and gone[-1]["score"] <= min(stays)


def with_bias() -> ModelProto:
    """Sigmoid scores with a bias that only picks, as DeepSeek's routers have: an expert is picked though its weight is zero."""
    bias = np.array([3, 0, 0, 2, 0, 1], np.float32)
    model = gathered()
    nodes = {n.output[0]: n for n in model.graph.node}
    nodes["p"].op_type = "Sigmoid"
    del nodes["p"].attribute[:]
    picks, values = nodes["v"], next(n for n in model.graph.node if n.output[0] == "vs")
    at = list(model.graph.node).index(picks)
    model.graph.node.insert(at, node("Add", ["p", "pick"], ["biased"]))
    picks.input[0], picks.output[0] = "biased", "unused"
    at = list(model.graph.node).index(values)
    model.graph.node.insert(at, node("GatherElements", ["p", "i"], ["v"], axis=1))
    model.graph.initializer.append(numpy_helper.from_array(bias, "pick"))
    return model


def test_experts_that_a_bias_picks_are_not_picked_once_they_went() -> None:
    result = onnxprune.prune(with_bias(), ratio=0.5, criterion="random", **SETTINGS)
    assert result.report["surgery"]["exact"] and len(removed(result.report)) == 3


def test_a_loss_that_balances_the_load_is_an_output_like_any_other() -> None:
    nodes = list(stacked().graph.node)
    nodes.append(node("ReduceSum", ["p"], ["total"], keepdims=0))
    model = built(nodes, weights() | NUMBERS, ("y", "total"))
    result = onnxprune.prune(model, ratio=0.5, calibration={"x": X}, **SETTINGS)
    assert result.report["surgery"]["exact"]


def soft() -> ModelProto:
    """All experts for all tokens, weighted by a softmax: nothing is picked."""
    nodes = [
        n
        for n in stacked().graph.node
        if n.output[0] not in {o for r in ROUTED[1:] for o in r.output} | {"ps", "z", "c"}
    ]
    for n in nodes:
        n.input[:] = ["p" if name == "c" else name for name in n.input]
    return built(nodes, weights() | NUMBERS)


def test_mixtures_that_take_all_experts_lose_some_too() -> None:
    result = onnxprune.prune(soft(), ratio=0.5, calibration={"x": X}, **SETTINGS)
    assert result.report["surgery"]["exact"] and len(removed(result.report)) == 3
    assert sum(row["routing"] for row in result.report["experts"]) == pytest.approx(1)


def test_a_model_without_experts_has_none() -> None:
    cnn = Path(__file__).parents[2] / "models" / "digits_transformer.onnx"
    assert inspect(cnn, granularity="experts")["experts"] == []
    with pytest.raises(TargetError, match="no expert of this model can go"):
        onnxprune.prune(cnn, **SETTINGS)


def test_it_mixes_with_widths_and_takes_steps() -> None:
    mixed = onnxprune.prune(
        stacked(), granularity="experts,heads", target="params=40%", calibration={"x": X}, latency=False
    )
    assert [row["kind"] for row in mixed.report["steps"]] == ["experts", "units"]
    assert mixed.report["after"]["parameters"] <= 0.4 * mixed.report["before"]["parameters"]
    steps = onnxprune.prune(FORMS["one-hot"](), ratio=0.5, schedule="linear:3", calibration={"x": X}, **SETTINGS)
    assert len(steps.report["steps"]) == 3 and len(removed(steps.report)) == 3
    assert removed(steps.report) == {
        int(name.split("/")[1]) for step in steps.plan.steps for name in step.record["experts"]
    }
    again = onnxprune.apply(steps.plan, FORMS["one-hot"](), latency=False)
    assert again.model.SerializeToString(deterministic=True) == steps.model.SerializeToString(deterministic=True)


def test_widths_inside_of_fused_experts_go_alike() -> None:
    result = onnxprune.prune(fused(), ratio=0.4, round_to=1, calibration={"x": X}, latency=False, include=("w1",))
    held = {t.name: tuple(t.dims) for t in result.model.graph.initializer}
    assert held["w1"][0] == EXPERTS and held["w1"][1] == held["w2"][2] == held["b1"][1] < 10
    assert result.report["surgery"]["exact"]


def test_plans_and_patterns_are_read_by_name() -> None:
    first = onnxprune.plan(stacked(), ratio=0.5, calibration={"x": X}, **SETTINGS)
    text = first.to_json().replace('"wr/', '"gone/')
    with pytest.raises(PlanError, match="which this model does not have"):
        onnxprune.apply(from_json(text), stacked(), latency=False)
    with pytest.raises(UsageError, match="matches no expert"):
        onnxprune.prune(stacked(), include=("nothing",), **SETTINGS)


def test_the_command_line_knows_them(tmp_path: Path) -> None:
    onnx.save(FORMS["split"](), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=X)
    done = CliRunner().invoke(
        main,
        [
            *map(str, (tmp_path / "m.onnx", tmp_path / "s.onnx")),
            "--granularity",
            "experts",
            "--calib",
            str(tmp_path / "x.npz"),
            "--no-latency",
        ],
    )
    assert done.exit_code == 0, done.output
    assert "experts of" in done.output and "removed" in done.output
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "m.onnx"), "--granularity", "experts"])
    assert shown.exit_code == 0 and "0 of 6" in shown.output, shown.output
    ((text,),) = {(row["remedy"],) for row in inspect(fused())["frozen"] if "picked by" in row["reason"]}
    assert text == "--granularity experts removes whole experts"


def test_rows_add_up() -> None:
    for form in ("stacked", "one-hot", "fused"):
        report = onnxprune.prune(FORMS[form](), ratio=0.5, criterion="random", **SETTINGS).report
        gone = [row["parameters"] for row in report["experts"] if row["status"] == "removed"]
        assert sum(gone) == report["before"]["parameters"] - report["after"]["parameters"]


def test_effects_on_the_outputs_are_those_of_sending_no_token() -> None:
    model = FORMS["joined"]()
    report = onnxprune.prune(model, ratio=0.5, criterion="kl", calibration={"x": X}, **SETTINGS).report
    before = by_hand(X, set())
    errors = [float(np.square(by_hand(X, {e}) - before).sum(axis=1).mean()) for e in range(EXPERTS)]
    scores = [row["score"] for row in report["experts"]]
    assert np.argsort(scores).tolist() == np.argsort(errors).tolist() and removed(report) == set(
        np.argsort(errors)[:3].tolist()
    )


@pytest.mark.parametrize("form", ["range", "one-hot", "split"])
def test_what_is_shared_because_it_is_equal_ties_no_layers(form: str) -> None:
    model = chained(form)
    result = onnxprune.prune(model, ratio=0.5, criterion="routing-mass", calibration={"x": X}, **SETTINGS)
    rows = result.report["experts"]
    assert result.report["surgery"]["exact"] and len({row["layer"] for row in rows}) == 2
    by_layer = [
        {r["expert"] for r in rows if r["status"] == "removed" and r["layer"] == layer} for layer in ("wr/0", "wr/1")
    ]
    assert [len(gone) for gone in by_layer] == [3, 3] and by_layer[0] != by_layer[1]


VARIATIONS = {
    "switched": switched,
    "tiled": tiled,
    "summed": summed,
    "picked first": picked_first,
    "spelled out": spelled_out,
    "temperature": lambda: between(node("Mul", ["logits", "warm"], ["scores"])),
}


@pytest.mark.parametrize("name", VARIATIONS)
def test_routers_and_products_of_other_kinds(name: str) -> None:
    result = onnxprune.prune(VARIATIONS[name](), ratio=0.5, criterion="routing-mass", calibration={"x": X}, **SETTINGS)
    assert result.report["surgery"]["exact"] and len(removed(result.report)) == 3
    assert result.report["after"]["parameters"] < 0.55 * result.report["before"]["parameters"]
    if name in ("tiled", "summed", "picked first", "spelled out"):
        np.testing.assert_allclose(run(result.model), by_hand(FEW, removed(result.report)), atol=1e-5)


@pytest.mark.parametrize(
    "nodes",
    [[node("Mul", ["logits", "turned"], ["scores"])], [node("LayerNormalization", ["logits", "gain"], ["scores"])]],
    ids=["the least is picked", "scores are normalised"],
)
def test_what_is_not_exact_stays(nodes: list) -> None:
    with pytest.raises(TargetError, match="no expert of this model can go exactly"):
        onnxprune.prune(between(*nodes), ratio=0.5, **SETTINGS)


def test_what_this_machine_cannot_run_is_cut_where_that_is_allowed() -> None:
    w = weights()
    names = ["h", "logits", "w1", "b1", "w2", "b2", "w3"]
    nodes = [n for n in fused().graph.node if n.op_type != "MoE"]
    moe = node("MoE", names, ["moe"], domain="com.microsoft", k=PICKED, activation_type="silu")
    stored = {t.name: numpy_helper.to_array(t) for t in fused().graph.initializer} | {
        "w3": w["w1"].transpose(0, 2, 1).copy()
    }
    model = built([*nodes[:4], moe, *nodes[4:]], stored)
    with pytest.raises(ModelError, match="FC3 is not implemented"):
        onnxprune.prune(model, ratio=0.5, **SETTINGS)
    result = onnxprune.prune(model, ratio=0.5, allow_unproven=True, **SETTINGS)
    held = {t.name: tuple(t.dims) for t in result.model.graph.initializer}
    assert held["w3"] == held["w1"] == (3, 10, 8) and not result.report["surgery"]["exact"]


def test_experts_inside_of_bodies_are_named_as_staying() -> None:
    """The columns of routing weights are read by a node whose bodies hold the experts."""
    nodes, last = list(PLACED), "h"
    stored = weights() | NUMBERS
    for e in range(EXPERTS):
        stored[f"w_{e}"] = stored["w1"][e] @ stored["w2"][e]
        inner = [node("MatMul", ["h", f"w_{e}"], [f"o_{e}"]), node("Mul", [f"o_{e}", f"ce_{e}"], [f"t_{e}"])]
        then = helper.make_graph(inner, "then", [], [helper.make_tensor_value_info(f"t_{e}", 1, None)])
        other = helper.make_graph(
            [node("Sub", ["h", "h"], [f"f_{e}"])], "else", [], [helper.make_tensor_value_info(f"f_{e}", 1, None)]
        )
        nodes += [node("Gather", ["c", f"n{e}"], [f"c_{e}"], axis=1), node("Unsqueeze", [f"c_{e}", "u1"], [f"ce_{e}"])]
        nodes += [node("ReduceMax", [f"c_{e}"], [f"m_{e}"], keepdims=0), node("Cast", [f"m_{e}"], [f"any_{e}"], to=9)]
        nodes.append(node("If", [f"any_{e}"], [f"y_{e}"], then_branch=then, else_branch=other))
        nodes.append(node("Add", [last, f"y_{e}"], [f"acc_{e}"]))
        last = f"acc_{e}"
    whole = [*list(stacked().graph.node)[:4], *nodes, node("MatMul", [last, "wo"], ["y"])]
    model = built(whole, stored)
    (row,) = inspect(model, granularity="experts")["experts"]
    assert row["status"] == "kept" and "is needed whatever the scores are" in row["reason"]
