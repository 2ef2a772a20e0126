"""The proof sees: right cuts are accepted on every class of network, damaged ones refused, what was not seen is named."""

from __future__ import annotations

import json
import zlib
from itertools import chain
from pathlib import Path

import numpy as np
import onnx
import pytest
from cases import OPERATORS, PATTERNS
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from support.mutations import Bench
from support.networks import network, unseen_model
from support.oracles import analysed, random_plan

import onnxprune
from onnxprune.cli import main
from onnxprune.coupling.cut import cut
from onnxprune.errors import TargetError
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.read import load
from onnxprune.proof.check import check_cut
from onnxprune.proof.inputs import random_feeds
from onnxprune.proof.positions import difference
from onnxprune.proof.stand_ins import compressed, resized

NET = "w1 = %8x3x1x1; b1 = %8; p = Conv(x, w1, b1); r = Relu(p); w2 = %6x8x1x1; b2 = %6; q = Conv(r, w2, b2); s = Relu(q); "
PLAN = [[0, 2, 3, 6, 7], [1, 2, 5]]  # units of w1 and of w2 that stay
TAIL = "w3 = %3x6x1x1; n = Conv(s, w3); "

BLIND = {
    "boxes beside scores": (
        NET + "w3 = %4x6x1x1; u = Conv(s, w3); v = Sigmoid(u); box = Mul(v, @640.); w4 = %5x6x1x1; c = Conv(s, w4); "
        "score = Sigmoid(c); y = Concat<axis=1>(box, score)"
    ),
    "restored image": NET + TAIL + "big = Mul(x, @255.); y = Add(big, n)",
    "rectified far below zero": NET + TAIL + "m = Sub(n, @1000.); y = Relu(m)",
    "saturated sigmoid": NET + TAIL + "m = Add(n, @30.); y = Sigmoid(m)",
    "logarithm of the input": "l = Log(x); w1 = %8x3x1x1; b1 = %8; p = Conv(l, w1, b1); r = Relu(p); w2 = %6x8x1x1; b2 = %6; "
    "q = Conv(r, w2, b2); s = Relu(q); w3 = %3x6x1x1; y = Conv(s, w3)",
    "root inside": NET.replace("r = Relu(p)", "r = Sqrt(p)") + "w3 = %3x6x1x1; y = Conv(s, w3)",
    "never finite": NET
    + TAIL
    + "xx = Mul(x, x); t = ReduceSum<keepdims=1>(xx, @[1, 2, 3]); g = Neg(t); l = Log(g); y = Add(n, l)",
    "only beyond what random draws reach": NET.replace("r = Relu(p)", "pp = Sub(p, @100000.); r = Relu(pp)")
    + "w3 = %3x6x1x1; y = Conv(s, w3)",
    "noise": NET + TAIL + "z = RandomNormalLike(n); y = Add(n, z)",
    "noise on a cut axis": NET.replace("r = Relu(p)", "z = RandomUniformLike<low=0.5, high=2.0>(p); r = Mul(p, z)")
    + "w3 = %3x6x1x1; y = Conv(s, w3)",
    "random flags": NET + TAIL + "h = Sigmoid(n); z = Bernoulli(h); y = Mul(n, z)",
}


def plan(analysis) -> list[np.ndarray]:
    return [np.isin(np.arange(g.width), kept) for g, kept in zip(analysis.groups, PLAN, strict=True)]


def rolled(small, name: str, by: int):
    array = small.weights[name].read()
    return small.replaced({name: np.roll(array.reshape(-1), by).reshape(array.shape)})


def assert_sees(model, inputs_of: str = "") -> None:
    """The right cut is proven; every stored weight rolled by one or five places is refused."""
    analysis = analysed(model)
    kept = plan(analysis)
    small = cut(analysis, kept)
    found = check_cut(analysis, kept, small)
    assert found.exact, (found.problem, found.unproven)
    for name, tensor in small.weights.items():
        if name.startswith(("w", "b")):
            for by in (1, 5):
                damaged = rolled(small, name, by)
                if (damaged.weights[name].read() != tensor.read()).any():
                    assert not check_cut(analysis, kept, damaged).agrees, (name, by)


@pytest.mark.parametrize("name", BLIND)
def test_nothing_hides_a_wrong_slice(name: str) -> None:
    assert_sees(network(BLIND[name], "float[2,3,4,4] x"))


def test_both_sides_of_a_flag_are_seen() -> None:
    text = NET + "w3 = %3x6x1x1; a = Conv(s, w3); w4 = %3x6x1x1; b = Conv(s, w4); y = Where(flag, a, b)"
    assert_sees(network(text, "float[2,3,4,4] x, bool flag"))


@pytest.mark.parametrize("switch", ["bool flag", "float[2,3,4,4] x"], ids=["given", "computed"])
def test_both_branches_of_an_if_are_seen(switch: str) -> None:
    """The untaken branch is looked at too, whether a flag decides or a value that no draw makes large enough."""
    condition = "" if switch == "bool flag" else "m = ReduceMax<keepdims=0>(x); flag = Greater(m, @1000000.); "
    text = (
        NET
        + condition
        + (
            "w3 = %3x6x1x1; w4 = %3x6x1x1; y = If(flag) <then_branch = t () => (float[2,3,4,4] a) { a = Conv(s, w3) }, "
            "else_branch = e () => (float[2,3,4,4] b) { b = Conv(s, w4) }>"
        )
    )
    inputs = "float[2,3,4,4] x" + (", bool flag" if switch == "bool flag" else "")
    assert_sees(network(text.replace("; w3", "\nw3"), inputs, "float[2,3,4,4] y"))


def test_bytes_are_drawn_from_their_whole_range() -> None:
    text = (
        "f = Cast<to=1>(x); w1 = %8x3x1x1; b1 = %8; p = Conv(f, w1, b1); n = InstanceNormalization(p, @[1., 1., 1., 1., 1., 1., 1., 1.], "
        "@[0., 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]); r = Relu(n); w2 = %6x8x1x1; b2 = %6; q = Conv(r, w2, b2); s = Relu(q); "
        "w3 = %3x6x1x1; y = Conv(s, w3)"
    )
    model = network(text, "uint8[2,3,4,4] x")
    assert_sees(model)
    drawn = random_feeds(gather_facts(load(model), Graph(model)), 0)["x"]
    assert drawn.min() < 30 and drawn.max() > 220


# --- what cannot be run alike ---------------------------------------------------------------------------------------


def test_foreign_nodes_are_named_and_all_around_them_is_seen() -> None:
    text = (
        NET
        + "w3 = %3x6x1x1; n = Conv(s, w3); f = acme.Secret(n); w4 = %8x3x1x1; k = Conv(n, w4); o = Relu(k); w5 = %2x8x1x1; y = Conv(o, w5)"
    )
    model = network(text, "float[2,3,4,4] x", "float[2,2,4,4] y", domains={"acme": 1})
    model.graph.output.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, None))
    analysis = analysed(model)
    kept = random_plan(analysis, np.random.default_rng(0))
    small = cut(analysis, kept)
    found = check_cut(analysis, kept, small)
    assert found.exact and found.skipped == ("f",)
    proofs = {proof.name: proof for proof in found.outputs}
    assert proofs["f"].proven and proofs["f"].moved is None and "ONNX Runtime does not have" in proofs["f"].reason
    assert not check_cut(analysis, kept, rolled(small, "w3", 1)).agrees


def test_what_follows_a_foreign_node_in_unknown_shapes_is_not_proven(tmp_path: Path) -> None:
    text = "f = acme.Secret(x); w1 = %3x8; b = %8; m = MatMul(x, w1); r = Relu(m); w2 = %8x3; n = MatMul(r, w2); y = acme.Other(n, f)"
    model = network(text, "float[2,3] x", "float[2,3] y", domains={"acme": 1})
    report = onnxprune.prune(model, latency=False, round_to=1).report
    assert report["surgery"]["skipped"] == ["f", "y"]


def test_random_values_of_a_body_are_the_same_for_both() -> None:
    text = NET + (
        "w3 = %3x6x1x1\nn = Conv(s, w3)\ny = If(flag) <then_branch = t () => (float[2,3,4,4] a) { z = RandomNormalLike(n)\n"
        "a = Add(n, z) }, else_branch = e () => (float[2,3,4,4] b) { b = Identity(n) }>"
    )
    assert_sees(network(text, "float[2,3,4,4] x, bool flag", "float[2,3,4,4] y"))


def test_bfloat16_is_checked_in_float32() -> None:
    model = network(NET + "w3 = %3x6x1x1; y = Conv(s, w3)", "float[2,3,4,4] x", opset=22)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.BFLOAT16, array.shape, array.reshape(-1).tolist()))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    analysis = analysed(model)
    kept = plan(analysis)
    assert check_cut(analysis, kept, cut(analysis, kept)).exact


@pytest.mark.parametrize(
    ("first", "opset"),
    [("PRelu(x, t1)", 6), ("Relu(x)", 21)],
    ids=["an operator that the runtime lacks", "two nodes of one name"],
)
def test_what_the_original_cannot_do_is_not_the_cuts_fault(first: str, opset: int, tmp_path: Path) -> None:
    text = f"t1 = %3; a = {first}; w1 = %3x8; m = MatMul(a, w1); r = Relu(m); y = MatMul(r, %8x3)"
    model = network(text, "float[2,3] x", "float[2,3] y", opset=opset)
    for node in model.graph.node if opset == 21 else ():
        node.name = "twice"
    onnx.save(model, tmp_path / "a.onnx")
    done = CliRunner().invoke(main, ["prune", str(tmp_path / "a.onnx"), "--round-to", "1"])
    assert done.exit_code == 3 and "original" in done.output, done.output
    assert not list(tmp_path.glob("*.pruned.onnx"))


# --- what was not seen ----------------------------------------------------------------------------------------------


def test_a_loop_that_takes_no_turn_is_made_to(tmp_path: Path) -> None:
    """The number of turns is computed, and zero for all inputs drawn: it is drawn itself."""
    text = (
        "w1 = %3x8\nm = MatMul(x, w1)\nr = Relu(m)\nw2 = %8x8\nw3 = %8x3\nh = ReduceSum<keepdims=0>(x)\n"
        "c = Greater(h, @100000000.)\nn = Cast<to=7>(c)\n"
        "y = Loop(n, c, x) <body = b (int64 i, bool k, float[2,3] v) => (bool k2, float[2,3] v2) "
        "{ k2 = Identity(k)\nu = MatMul(r, w2)\nt = MatMul(u, w3)\nv2 = Add(v, t) }>"
    )
    analysis = analysed(network(text, "float[2,3] x", "float[2,3] y"))
    kept = random_plan(analysis, np.random.default_rng(0))
    small = cut(analysis, kept)
    assert check_cut(analysis, kept, small).exact
    for name in ("w1", "w2", "w3"):
        assert not check_cut(analysis, kept, rolled(small, name, 1)).agrees, name


def test_a_value_that_is_always_zero_is_seen_where_anything_else_goes_in() -> None:
    """x - x is zero whatever x is: nothing in it can be wrong, and what reads it is tried with other values."""
    text = "w1 = %3x8; m = MatMul(x, w1); z = Sub(m, m); w2 = %8x5; y = MatMul(z, w2)"
    analysis = analysed(network(text, "float[2,3] x"))
    kept = random_plan(analysis, np.random.default_rng(0))
    small = cut(analysis, kept)
    found = check_cut(analysis, kept, small)
    assert found.exact and found.outputs[0].moved == 0
    assert not check_cut(analysis, kept, rolled(small, "w2", 1)).agrees


# --- positions ------------------------------------------------------------------------------------------------------


def test_what_has_no_positions_keeps_nothing_from_being_proven() -> None:
    """The part of a head that is not rotated, where all of it is: a Slice of nothing, joined on again."""
    rest = "empty = Slice(q, @[6], @[6], @[1]); turned = Neg(q); joined = Concat<axis=1>(turned, empty); s = Relu(joined); "
    assert_sees(network(NET.replace("s = Relu(q); ", rest) + "w3 = %3x6x1x1; y = Conv(s, w3)"))


def test_each_position_is_measured_on_its_own_scale() -> None:
    """By hand: boxes of 640 beside scores of 0.5 in 200 places; a score off by 0.05 is a tenth, not a tenth of 640."""
    want = np.concatenate([np.full((1, 4, 200), 640.0), np.full((1, 3, 200), 0.5)], 1).astype(np.float32)
    have = want.copy()
    have[0, 5, 7] += 0.05
    scale = 640 / 200  # few places say little: a position's scale is at least this part of the largest
    assert np.isclose(difference(want, have).error, 0.05 / scale, rtol=1e-5)
    more = np.repeat(want, 10, axis=2)
    off = more.copy()
    off[0, 5, 7] += 0.05
    assert np.isclose(difference(more, off).error, 0.05 / 0.64, rtol=1e-4)


def test_masks_of_product_axes_follow_the_free_factor() -> None:
    heads = np.array([True, False, True])
    assert resized(np.tile(heads, 2), 9).tolist() == np.tile(heads, 3).tolist()
    assert resized(np.repeat(heads, 2), 9).tolist() == np.repeat(heads, 3).tolist()
    assert compressed(np.arange(9), {0: np.tile(heads, 2)}).tolist() == [0, 2, 3, 5, 6, 8]
    with pytest.raises(ValueError, match="fits no axis"):
        resized(np.array([True, False, False, True]), 6)


def test_values_that_rounding_alone_moves_as_far_prove_nothing_and_refuse_nothing() -> None:
    """A difference of two large, almost equal numbers: honest cuts agree to rounding of the large ones."""
    text = "w1 = %3x8; m = MatMul(x, w1); a = Add(m, @1000000.); b = Sub(a, @1000000.); w2 = %8x5; y = MatMul(b, w2)"
    analysis = analysed(network(text, "float[6,3] x"))
    kept = random_plan(analysis, np.random.default_rng(1))
    assert check_cut(analysis, kept, cut(analysis, kept)).agrees


# --- mutation -------------------------------------------------------------------------------------------------------

RUNNING = [row for row in (*chain(*OPERATORS.values()), *PATTERNS) if row.runs]


def test_damaged_models_are_refused() -> None:
    """Two damages of every golden row and pattern, drawn by its name; benchmarks/mutations.py does all of them."""
    seen = missed = 0
    for row in RUNNING:
        analysis = analysed(row.model(), row.allow)
        random = np.random.default_rng(zlib.crc32(row.name.encode()))
        kept = random_plan(analysis, random)
        if all(mask.all() for mask in kept):
            continue
        bench = Bench(analysis, kept)
        assert bench.accepts(bench.small), row.name
        refused, harmful = bench.tried(random)
        seen, missed = seen + refused, missed + harmful
    assert seen > 900
    assert missed <= 0.001 * seen


# --- the report -----------------------------------------------------------------------------------------------------


def test_the_report_says_of_every_output_what_the_proof_saw(tmp_path: Path) -> None:
    text = BLIND["boxes beside scores"].replace(
        "y = Concat<axis=1>(box, score)", "y = Identity(box); z = Identity(score); k = Neg(x)"
    )
    onnx.save(network(text, "float[2,3,4,4] x", "float[] y, float[] z, float[] k"), tmp_path / "a.onnx")
    done = CliRunner().invoke(
        main, ["prune", str(tmp_path / "a.onnx"), "--round-to", "1", "--no-latency", "--json", str(tmp_path / "a.json")]
    )
    assert done.exit_code == 0, done.output
    surgery = json.loads((tmp_path / "a.json").read_text())["surgery"]
    assert surgery["exact"] and surgery["proven"] and surgery["unproven"] is None
    assert set(surgery["outputs"]) == {"y", "z", "k"}
    for name, proof in surgery["outputs"].items():
        assert set(proof) == {"moved", "error", "tolerance", "proven", "reason"}
        assert proof["proven"] and proof["error"] <= proof["tolerance"]
        assert (proof["moved"] > 0.01) == (name != "k")
    assert surgery["outputs"]["k"]["reason"] == "the cut does not reach it"
    assert "proven" in done.stdout and "surgery exact" in done.stdout


def test_what_is_not_proven_is_written_only_where_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    onnx.save(unseen_model(), tmp_path / "a.onnx")
    args = ["prune", str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx"), "--round-to", "1", "--no-latency"]
    done = CliRunner().invoke(main, args)
    if done.exit_code == 0:
        pytest.fail(f"the body of the loop was never run, but: {done.output}")
    assert done.exit_code == 4 and "--allow-unproven" in done.output and not (tmp_path / "b.onnx").exists()
    allowed = CliRunner().invoke(main, [*args, "--allow-unproven"])
    assert allowed.exit_code == 0 and "not proven" in allowed.output and (tmp_path / "b.onnx").exists()


def test_a_target_that_is_missed_is_an_error() -> None:
    with pytest.raises(TargetError, match=r"removed nothing|none of the"):
        onnxprune.prune(
            network("w1 = %3x4; m = MatMul(x, w1); y = MatMul(m, %4x3)", "float[2,3] x"), ratio=0.01, latency=False
        )


def test_a_result_far_below_the_target_is_said() -> None:
    text = (
        "w1 = %3x16; m = MatMul(x, w1); r = Relu(m); w2 = %16x16; n = MatMul(r, w2); s = Relu(n); y = MatMul(s, %16x3)"
    )
    report = onnxprune.prune(network(text, "float[2,3] x"), target="macs=55%", round_to=8, latency=False).report
    assert report["after"]["macs"] < 0.54 * report["before"]["macs"]
    assert any("multiples of 8" in warning for warning in report["warnings"])


def test_a_state_that_begins_as_zeros_is_drawn() -> None:
    """The first step of an unrolled recurrence multiplies zeros: what it multiplies them by is seen with other numbers."""
    text = (
        "d = Shape<start=0, end=1>(x); s = Concat<axis=0>(d, @[8]); zero = ConstantOfShape(s); w1 = %3x8; a = MatMul(x, w1); "
        "w2 = %8x8; b = MatMul(zero, w2); c = Add(a, b); h = Tanh(c); y = MatMul(h, %8x5)"
    )
    analysis = analysed(network(text, "float[N,3] x", "float[N,5] y"))
    kept = random_plan(analysis, np.random.default_rng(0))
    small = cut(analysis, kept)
    assert any(not mask.all() for mask in kept) and check_cut(analysis, kept, small).exact
    assert not check_cut(analysis, kept, rolled(small, "w2", 1)).agrees


def test_a_value_near_a_step_of_a_quantiser_is_no_wrong_cut() -> None:
    """Sums of grid points meet the next grid's ties exactly: they fall on either side, and a norm makes that large behind them."""
    text = (
        "w1 = %8x64:int8; d1 = DequantizeLinear(w1, @0.125); m = MatMul(x, d1); q1 = QuantizeLinear(m, @0.25, @0:int8); "
        "p = DequantizeLinear(q1, @0.25, @0:int8); r = Relu(p); w2 = %64x8:int8; d2 = DequantizeLinear(w2, @0.125); n = MatMul(r, d2); "
        "q2 = QuantizeLinear(n, @64., @0:int8); s = DequantizeLinear(q2, @64., @0:int8); "
        "t = Mul(s, @1000.); y = Tanh(t)"
    )
    analysis = analysed(network(text, "float[64,8] x"))
    for seed in range(6):
        kept = random_plan(analysis, np.random.default_rng(seed))
        small = cut(analysis, kept)
        found = check_cut(analysis, kept, small)
        assert found.exact, (seed, found.problem, found.unproven)
        assert not check_cut(analysis, kept, rolled(small, "w2", 3)).agrees
