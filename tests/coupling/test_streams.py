"""Residual streams: what a cut scales goes into gains and epsilons, means into writers, and a rotation changes no output."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto
from support.networks import feeds, network
from support.oracles import analysed, halves, run, same

import onnxprune
from onnxprune.coupling.absorb import absorbed
from onnxprune.coupling.cut import cut
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.links import build_links
from onnxprune.coupling.streams.centring import centred, with_root_mean_squares
from onnxprune.coupling.streams.residual import streams
from onnxprune.coupling.streams.rotation import (
    principal,
    random_basis,
    turnable_streams,
    turned,
    with_shifts_behind,
)
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.model import Model
from onnxprune.proof.check import Prover, check_cut

X = "float[2,4,6] x"
BODY = "w1 = %6x10; f = MatMul({}, w1); g = Relu(f); w2 = %10x6; h = MatMul(g, w2); c = %6; i = Add(h, c); e = Add(x0, i); "
START = "w0 = %6x6; b0 = %6; q0 = MatMul(x, w0); x0 = Add(q0, b0); "
SPELLED = (
    "{0}m = ReduceMean({1}, @[-1]); {0}c = Sub({1}, {0}m); {0}q = Pow({0}c, @2.0); {0}v = ReduceMean({0}q, @[-1]); "
    "{0}d = Add({0}v, @0.001); {0}s = Sqrt({0}d); {0}r = Div({0}c, {0}s); {0}g = %6; {0}t = Mul({0}r, {0}g); {0}b = %6; "
    "{0}n = Add({0}t, {0}b); "
)
ROOT = (
    "{0}q = Pow({1}, @2.0); {0}v = ReduceMean({0}q, @[-1]); {0}d = Add({0}v, @0.001); {0}s = Sqrt({0}d); "
    "{0}r = Div({1}, {0}s); {0}g = %6; {0}n = Mul({0}r, {0}g); "
)
FUSED = "{0}g = %6; {0}b = %6; {0}n = LayerNormalization({1}, {0}g, {0}b); "
RMS = "{0}g = %6; {0}n = RMSNormalization({1}, {0}g); "
END = "wy = %6x5; y = MatMul({}, wy)"


def block(norm: str, opset: int = 23, start: str = START) -> ModelProto:
    """Return a network of one pre-norm branch and a last norm."""
    text = start + norm.format("a", "x0") + BODY.format("an") + norm.format("z", "e") + END.format("zn")
    return network(text, X, opset=opset)


NORMS = {"layer": FUSED, "layer by parts": SPELLED, "root": RMS, "root by parts": ROOT}
LAYERS = ("layer", "layer by parts")


def equal(original: Model, other: Model, tolerance: float = 2e-5) -> None:
    inputs = feeds(original.proto, below=2)
    onnx.checker.check_model(other.proto, full_check=True)
    same(run(original.proto, inputs), run(other.proto, inputs), tolerance)


def operators(model: Model) -> list[str]:
    return [node.op_type for node in model.structure.graph.node]


# --- what a cut scales ------------------------------------------------------------------------------------------------

TAKEN_IN = {
    "into epsilon and gain": (ROOT.format("a", "x") + END.format("an"), 0),
    "into the weights that read": (
        "p = Mul(x, x); m = ReduceMean(p, @[-1]); d = Add(m, @0.01); s = Sqrt(d); r = Div(x, s); "
        "a = MatMul(r, %6x5); b = MatMul(r, %6x5); y = Mul(a, b)",
        0,
    ),
    "through powers, into a gain that is computed": (
        "p = Mul(x, x); m = ReduceMean(p, @[-1]); d = Add(m, @0.001); s = Pow(d, @-0.5); r = Mul(x, s); one = %6; "
        "gain = Add(one, @1.0); n = Mul(r, gain); y = MatMul(n, %6x5)",
        0,
    ),
    "into the gain of a fused norm": ("n = RMSNormalization(x, %6); y = MatMul(n, %6x5)", 0),
    "an epsilon and a gain that two norms share": (
        "eps = @0.01; gain = %6; p = Pow(x, @2.0); m = ReduceMean(p, @[-1]); d = Add(m, eps); s = Sqrt(d); r = Div(x, s); "
        "n = Mul(r, gain); h = Mul(n, @0.5); p1 = Pow(h, @2.0); m1 = ReduceMean(p1, @[-1]); d1 = Add(m1, eps); "
        "s1 = Sqrt(d1); r1 = Div(h, s1); n1 = Mul(r1, gain); y = MatMul(n1, %6x5)",
        0,
    ),
    "not where a sum lies behind": ("m = ReduceMean(x, @[-1]); c = Sub(x, m); y = MatMul(c, %6x5)", 1),
}


@pytest.mark.parametrize(("text", "left"), TAKEN_IN.values(), ids=TAKEN_IN)
def test_scales_are_taken_in(text: str, left: int) -> None:
    analysis = analysed(
        network("w0 = %6x6; x0 = MatMul(x, w0); " + text.replace("(x,", "(x0,").replace(", x)", ", x0)"), X, opset=23)
    )
    small = cut(analysis, halves(analysis))
    found = absorbed(small)
    equal(small, found)
    scales = [node for node in found.structure.graph.node if "/Mul_pruned" in node.name]
    assert len(scales) == left


def test_weights_that_others_read_as_well_are_left_alone() -> None:
    text = (
        "w0 = %6x6; x0 = MatMul(x, w0); p = Mul(x0, x0); m = ReduceMean(p, @[-1]); s = Sqrt(m); r = Div(x0, s); w = %6x5; "
        "a = MatMul(r, w); k = MatMul(x, %6x6); b = MatMul(k, w); y = Add(a, b)"
    )
    analysis = analysed(network(text, X))
    small = cut(analysis, halves(analysis))
    equal(small, absorbed(small))
    assert absorbed(small) is small


# --- means ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("opset", [18, 23])
def test_a_layer_norm_of_linear_layers_becomes_a_root_mean_square(name: str, opset: int) -> None:
    analysis = analysed(block(NORMS[name], opset))
    plan = halves(analysis)
    free = centred(analysis, range(len(analysis.groups)))
    equal(analysis.facts.model, free.facts.model)
    small = cut(free, plan)
    assert check_cut(free, plan, small).exact
    last = absorbed(small)
    equal(small, last)
    assert not {"LayerNormalization", "Sub"} & set(operators(last))
    assert operators(last).count("Pow") == 2 and operators(last).count("ReduceMean") == 2


@pytest.mark.parametrize("name", LAYERS)
def test_a_norm_that_loses_nothing_stays_as_it_was(name: str) -> None:
    analysis = analysed(block(NORMS[name]))
    plan = [np.arange(g.width) % 2 == 0 if g.name == "w1" else np.ones(g.width, bool) for g in analysis.groups]
    before, after = operators(analysis.facts.model), operators(cut(centred(analysis, range(9)), plan))
    assert before == after


@pytest.mark.parametrize("inputs", ["float[N,4,6] x", "float[2,4,6] x"], ids=["free", "fixed"])
def test_a_token_spread_over_the_batch_is_rid_of_its_mean(inputs: str) -> None:
    """Its small content, known though the batch is free, is not that of the model before."""
    text = (
        "w0 = %6x6; b0 = %6; q0 = MatMul(x, w0); p0 = Add(q0, b0); token = %1x1x6; d = Shape(x); n = Slice(d, @[0], @[1]); "
        f"s = Concat<axis=0>(n, @[1, 6]); t = Expand(token, s); x0 = Concat<axis=1>(t, p0); {FUSED.format('l', 'x0')}"
        f"{BODY.format('ln')}{FUSED.format('k', 'e')}{END.format('kn')}"
    )
    found = onnxprune.prune(network(text, inputs, opset=17), ratio=0.5, round_to=1, latency=False)
    assert found.report["surgery"]["exact"] and not found.report["surgery"]["frozen_by_check"]
    assert len(found.plan.kept["w0"][1]) == 3


STAY = {
    "a divisor": (
        "w0 = %6x6; q0 = MatMul(x, w0); d0 = Exp(q0); w9 = %6x6; x0 = MatMul(x, w9); k = Div(@1., x0); l = Mul(d0, k); "
        + FUSED.format("a", "x0")
        + "r0 = MatMul(an, %6x5); r1 = MatMul(l, %6x5); y = Add(r0, r1)",
        "is not linear in it",
    ),
    "made whole numbers": (
        START + "c0 = Cast<to=6>(x0); c1 = Cast<to=1>(c0); " + FUSED.format("a", "c1") + END.format("an"),
        "is not linear in it",
    ),
    "folded into another axis": (
        START + "c1 = Reshape(x0, @[2, 24]); c2 = Reshape(c1, @[8, 6]); " + FUSED.format("a", "c2") + END.format("an"),
        "lays it out anew",
    ),
    "padded with ones": (
        START + "c1 = Pad(x0, @[0, 1, 0, 0, 1, 0], @1.); " + FUSED.format("a", "c1") + END.format("an"),
        "is not linear in it",
    ),
    "tied to what reads it": (
        "t = %9x6; x0 = Gather(t, ids); " + FUSED.format("a", "x0") + "u = Transpose<perm=[1,0]>(t); y = MatMul(an, u)",
        "reads it with its mean",
    ),
    "read beside the norm": (
        START + FUSED.format("a", "x0") + "k = MatMul(x0, %6x5); l = MatMul(an, %6x5); y = Add(k, l)",
        "reads it with its mean",
    ),
    "behind an activation": (
        "w0 = %6x6; q0 = MatMul(x, w0); x0 = Relu(q0); " + FUSED.format("a", "x0") + END.format("an"),
        "not linear",
    ),
    "behind a norm": (
        START
        + FUSED.format("a", "x0")
        + "h = MatMul(an, %6x6); e = Add(an, h); "
        + FUSED.format("z", "e")
        + END.format("zn"),
        "not linear",
    ),
    "quantised": (
        "w0 = DequantizeLinear(%6x6:int8, @0.1); x0 = MatMul(x, w0); " + FUSED.format("a", "x0") + END.format("an"),
        "computed",
    ),
    "a layer's scale": (
        START
        + BODY.format("x0").replace("e = Add(x0, i)", "j = Mul(i, %6); e = Add(x0, j)")
        + FUSED.format("z", "e")
        + END.format("zn"),
        "channels one by one",
    ),
}


@pytest.mark.parametrize(("text", "reason"), STAY.values(), ids=STAY)
def test_what_keeps_a_mean_is_told(text: str, reason: str) -> None:
    """Such a stream is cut all the same: its norm is spelled out with the silent positions in it."""
    analysis = analysed(network(text, f"{X}, int64[2,4] ids" if "ids" in text else X))
    told = [stream.not_centrable for stream in streams(analysis.solution.links)]
    assert any(reason in one for one in told), told
    plan = halves(analysis)
    free = centred(analysis, range(len(analysis.groups)))
    assert check_cut(free, plan, cut(free, plan)).exact


# --- bases ------------------------------------------------------------------------------------------------------------


def links_of(model: Model):
    return build_links(gather_facts(model, Graph(model.structure)))


def rooted(analysis: Analysis) -> Model:
    """Return the model in which every layer norm that can be is an RMS norm."""
    free = centred(analysis, range(len(analysis.groups)))
    plain = with_root_mean_squares(free.solution.links) if free.facts.mean_free else free.facts.model
    return with_shifts_behind(links_of(plain))


SCALED = (
    START
    + BODY.format("x0").replace("e = Add(x0, i)", "j = Mul(i, %6); e = Add(x0, j)")
    + ROOT.format("z", "e")
    + END.format("zn")
)
TURNED = {name: block(norm) for name, norm in NORMS.items()} | {
    "a layer's scale": network(SCALED, X),
    "tokens chosen": network(
        START + ROOT.format("a", "x0") + "k = ReduceMean<keepdims=0>(an, @[1]); y = MatMul(k, %6x5)", X
    ),
}


@pytest.mark.parametrize("model", TURNED.values(), ids=TURNED)
def test_a_rotation_changes_no_output(model: ModelProto) -> None:
    analysis = analysed(model)
    plain = rooted(analysis)
    links = links_of(plain)
    (one,) = turnable_streams(links)
    assert not one.reason
    found = turned(links, [(one, random_basis(6, 3))])
    equal(analysis.facts.model, found)
    assert Prover(analysis.facts).compare(analysis.facts.model, found, None).agrees
    before = {t.name: plain.array(t) for t in plain.structure.graph.initializer}
    after = {t.name: found.array(t) for t in found.structure.graph.initializer if t.name in before}
    moved = [name for name, array in after.items() if not np.array_equal(array, before[name])]
    assert len(moved) >= 3


NOT_TURNED = {
    "read by what is not linear": (
        START + ROOT.format("a", "x0") + "k = Relu(an); y = MatMul(k, %6x5)",
        "not linear in stored weights",
    ),
    "a sum behind the norm": (
        START
        + ROOT.format("a", "x0")
        + "h = MatMul(an, %6x6); e = Add(an, h); "
        + ROOT.format("z", "e")
        + END.format("zn"),
        "a sum with what is normalised already",
    ),
}


@pytest.mark.parametrize(("text", "reason"), NOT_TURNED.values(), ids=NOT_TURNED)
def test_what_cannot_be_turned_says_why(text: str, reason: str) -> None:
    assert any(reason in one.reason for one in turnable_streams(links_of(analysed(network(text, X)).facts.model)))


@pytest.mark.parametrize("width", [6, 8, 64, 96])
def test_bases_are_orthonormal(width: int) -> None:
    draw = np.random.default_rng(0).standard_normal((width, 3 * width))
    for basis in (random_basis(width, 1), principal(draw @ draw.T)):
        np.testing.assert_allclose(basis.T @ basis, np.eye(width), atol=1e-10)
    np.testing.assert_array_equal(random_basis(width, 1), random_basis(width, 1))
