"""``--rotate`` inside of heads: every spelling is turned exactly, what a head does not use goes without loss, the rest says why it stays."""

from __future__ import annotations

import re

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper
from support.networks import network
from support.oracles import run, same

import onnxprune
from onnxprune.allocate import parse_ratio
from onnxprune.changes.analysing import analyse_model
from onnxprune.changes.context import Context, Data
from onnxprune.changes.rotation.sights import block_moments
from onnxprune.changes.rotation.space import Rotation
from onnxprune.coupling.heads.spaces import KEYS, VALUES
from onnxprune.coupling.heads.turning import balanced_basis
from onnxprune.data import input_specs, open_dataset
from onnxprune.errors import PlanError
from onnxprune.evidence import Need, gather
from onnxprune.model.read import load
from onnxprune.settings import Settings

X, Y = "float[N,5,8] x", "float[N,5,3] y"
ROWS = {"x": np.random.default_rng(1).standard_normal((64, 5, 8)).astype(np.float32)}
FEW = {"x": ROWS["x"][:8]}
CUT = {"granularity": "width", "round_to": 1, "latency": False, "repair": "none"}
HALF = CUT | {"ratio": 0.5, "criterion": "wanda", "calibration": ROWS}
HEADS = "{0}2 = Reshape({1}, @[0, 0, {2}, 4]); {0}h = Transpose<perm = [0, 2, 1, 3]>({0}2); "
SCORES = "kt = Transpose<perm = [0, 1, 3, 2]>(kh); s0 = MatMul(qh, kt); s = Mul(s0, @0.5); a = Softmax(s); "
BEHIND = "c = MatMul(a, vh); ct = Transpose<perm = [0, 2, 1, 3]>(c); cr = Reshape(ct, @[0, 0, 8]); "
OUT = "wo = %8x3; y = MatMul(cr, wo)"
APART = "".join(f"w{n} = %8x8; b{n} = %8; {n}0 = MatMul(x, w{n}); {n}1 = Add({n}0, b{n}); " for n in "qkv")
INSIDE = "".join(HEADS.format(n, f"{n}1", 2) for n in "qkv")
PACKED = "w = %8x24; b = %24; m = MatMul(x, w); z = Add(m, b); "
PARTS = "z5 = Reshape(z, @[0, 0, 3, 2, 4]); zt = Transpose<perm = [2, 0, 3, 1, 4]>(z5); "
SLICES = "".join(f"{n}1 = Slice(z, @[{8 * i}], @[{8 * i + 8}], @[2]); " for i, n in enumerate("qkv"))
GEMMS = "r = Reshape(x, @[-1, 8]); " + "".join(
    f"w{n} = %8x8; b{n} = %8; {n}0 = Gemm<transB = 1>(r, w{n}, b{n}); {n}1 = Reshape({n}0, @[-1, 5, 8]); "
    for n in "qkv"
)
SHARED = (
    "wq = %8x16; q1 = MatMul(x, wq); wk = %8x8; k1 = MatMul(x, wk); wv = %8x8; v1 = MatMul(x, wv); "
    + HEADS.format("q", "q1", 4)
    + "".join(
        HEADS.format(f"{n}s", f"{n}1", 2)
        + f"{n}u = Unsqueeze({n}sh, @[2]); {n}e = Expand({n}u, @[1, 1, 2, 1, 1]); {n}h = Reshape({n}e, @[0, 4, 5, 4]); "
        for n in "kv"
    )
    + SCORES
    + BEHIND.replace("@[0, 0, 8]", "@[0, 0, 16]")
    + "wo = %16x3; y = MatMul(cr, wo)"
)
SPELLINGS = {
    "apart": APART + INSIDE + SCORES + BEHIND + OUT,
    "split": PACKED + "q1, k1, v1 = Split<axis = -1, num_outputs = 3>(z); " + INSIDE + SCORES + BEHIND + OUT,
    "slices": PACKED + SLICES + INSIDE + SCORES + BEHIND + OUT,
    "gather": PACKED
    + PARTS
    + "qh = Gather<axis = 0>(zt, @0); kh = Gather<axis = 0>(zt, @1); vh = Gather<axis = 0>(zt, @2); "
    + SCORES
    + BEHIND
    + OUT,
    "gemm": GEMMS + INSIDE + SCORES + BEHIND + OUT,
    "einsum": "".join(f'w{n} = %8x2x4; {n}h = Einsum<equation = "bti,ihd->bhtd">(x, w{n}); ' for n in "qkv")
    + 's0 = Einsum<equation = "bhsd,bhtd->bhst">(qh, kh); s = Div(s0, @2.); a = Softmax(s); '
    + 'c = Einsum<equation = "bhst,bhtd->bshd">(a, vh); wo = %2x4x3; y = Einsum<equation = "bshd,hdo->bso">(c, wo)',
    "shared keys": SHARED,
    "Attention": APART + "cr = Attention<q_num_heads = 2, kv_num_heads = 2>(q1, k1, v1); " + OUT,
    "MultiHeadAttention": "".join(f"w{n} = %8x8; {n}1 = MatMul(x, w{n}); " for n in "qkv")
    + "b = %24; cr = com.microsoft.MultiHeadAttention<num_heads = 2>(q1, k1, v1, b); "
    + OUT,
    "packed Attention": "w = %8x24; b = %24; cr = com.microsoft.Attention<num_heads = 2>(x, w, b); " + OUT,
}
GAINED = HEADS.format("q", "q1", 2).replace("qh =", "qn =") + "qg = %4; qh = Mul(qn, qg); "
TURNED = (
    HEADS.format("q", "q1", 2).replace("qh =", "qp =")
    + "qa = Slice(qp, @[0], @[2], @[3]); qb = Slice(qp, @[2], @[4], @[3]); qm = Neg(qb); qr = Concat<axis = -1>(qm, qa); "
    "cs = %5x4; sn = %5x4; qc = Mul(qp, cs); qs = Mul(qr, sn); qh = Add(qc, qs); "
)
NORMED = HEADS.format("q", "q1", 2).replace("qh =", "qn =") + "qg = %4; qz = %4; qh = LayerNormalization(qn, qg, qz); "


def attention(spelling: str) -> ModelProto:
    domains = {"com.microsoft": 1} if "com.microsoft" in spelling else {}
    return network(spelling, X, Y, opset=23, domains=domains)


def changed(model: ModelProto, **arrays: np.ndarray) -> ModelProto:
    """Return the model with other content in some of its tensors."""
    copy = ModelProto.FromString(model.SerializeToString())
    for tensor in copy.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name].astype(np.float32), tensor.name))
    return copy


def narrow_heads() -> ModelProto:
    """Return an attention whose heads use two of four directions, none of which is a channel."""
    draw = np.random.default_rng(3)
    inside = np.zeros((2, 8, 8))
    for one, head in np.ndindex(2, 2):
        basis, _ = np.linalg.qr(draw.standard_normal((4, 2)))
        rows = slice(4 * head, 4 * head + 4)
        inside[one, rows, rows] = basis @ basis.T
    model = attention(SPELLINGS["apart"])
    content = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return changed(
        model,
        wk=content["wk"] @ inside[0],
        bk=content["bk"] @ inside[0],
        wo=inside[1] @ content["wo"],
    )


def space_of_heads(model: ModelProto, data: bool) -> Rotation:
    settings = Settings(granularity=("width",), rotate=True)
    loaded = load(model)
    rows = open_dataset(ROWS, input_specs(loaded.structure)) if data else None
    return Rotation(Context(analyse_model(loaded, settings), loaded, settings, Data(rows)))


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_turned_exactly(name: str, data: bool) -> None:
    """The turned model, before anything is cut, gives what the original gives, with other weights in all that writes or reads."""
    model = attention(SPELLINGS[name])
    change = (space := space_of_heads(model, data)).choose(parse_ratio(0.5))
    assert [(part.between, part.heads, part.width) for part in change.parts] == [(KEYS, 2, 4), (VALUES, 2, 4)]
    made = change.made()
    same(run(model, FEW), run(made.proto, FEW), 1e-5)
    before, after = ({t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (model, made.proto))
    weights = {tensor for tensor in before if tensor[0] in "wb"}
    assert {tensor for tensor in before if not np.array_equal(before[tensor], after[tensor])} == weights
    assert change.checked(made).agrees and space.head_basis == ("principal" if data else "weights")


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_cut_by_its_first_directions(name: str) -> None:
    found = onnxprune.prune(attention(SPELLINGS[name]), rotate=True, **HALF)
    assert {row["status"] for row in found.report["heads"]} == {"rotated"} and found.report["surgery"]["proven"]
    assert {group.kept for group in found.plan.groups if group.width == 4} == {(0, 1)}


def test_unused_directions_of_heads_go_without_loss() -> None:
    model = narrow_heads()
    found = onnxprune.prune(model, rotate=True, **HALF)
    assert [group.kept for group in found.plan.groups] == [(0, 1), (0, 1)], "the first directions carry most"
    same(run(model, FEW), run(found.model, FEW), 1e-4)
    plain = onnxprune.prune(model, **HALF)
    with pytest.raises(AssertionError):
        same(run(model, FEW), run(plain.model, FEW), 1e-2)
    blind = onnxprune.prune(model, rotate=True, ratio=0.5, criterion="l2", **CUT)
    same(run(model, FEW), run(blind.model, FEW), 1e-4)


@pytest.mark.parametrize("name", SPELLINGS)
def test_both_sides_have_one_second_moment_on_the_data(name: str) -> None:
    """Wherever its queries and keys can be seen, between operators or inside of one: the basis made again of the turned model changes nothing."""
    space = space_of_heads(attention(SPELLINGS[name]), data=True)
    for one in space.heads.spaces:
        sides = {side for block, side in block_moments(space.heads, one.blocks, space.context)}
        assert sides == ({False, True} if one.between == KEYS else {False})
    made = space.choose(parse_ratio(0.5)).made()
    again = space_of_heads(made.proto, data=True)
    for basis in again.head_bases().values():
        np.testing.assert_allclose(np.abs(basis[:, :3]), np.eye(4)[:, :3], atol=2e-3)  # there are three outputs


@pytest.mark.parametrize("aliased", [False, True])
def test_layers_that_share_weights_share_what_is_seen_of_them(aliased: bool) -> None:
    """Also where exporters give the second layer's weights names of their own."""
    once = SPELLINGS["apart"].replace(OUT, "")
    weights = [line for line in once.split("; ") if "%" in line]
    steps = [line for line in once.split("; ") if line and "%" not in line]
    again = ("; ".join(steps) + "; ").replace("(x,", "(x2,")
    for name in sorted({line.split(" =")[0] for line in steps}, key=len, reverse=True):
        again = re.sub(rf"\b{name}\b", f"{name}_2", again)
    for name in [line.split(" =")[0] for line in weights] if aliased else ():
        again = f"{name}_i = Identity({name}); " + re.sub(rf"\b{name}\b", f"{name}_i", again)
    body = (
        "; ".join([*weights, *steps])
        + "; wo = %8x8; x2 = MatMul(cr, wo); "
        + again
        + "z = MatMul(cr_2, wo); wy = %8x3; y = MatMul(z, wy)"
    )
    space = space_of_heads(attention(body), data=True)
    assert [(one.between, one.reason) for one in space.heads.spaces if one.blocks] != []
    facts = space.context.facts
    needs = [Need("gram", value, 2) for value in ("cr", "cr_2")]
    seen = gather(facts, space.context.data.calibration, needs)
    both = sum(seen[need].second_moment[0] for need in needs)
    (values,) = [one for one in space.heads.spaces if one.between == VALUES and one.blocks]
    moments = block_moments(space.heads, values.blocks, space.context)
    for head, block in enumerate(values.blocks):
        rows = slice(4 * head, 4 * head + 4)
        np.testing.assert_allclose(moments[block, False], both[rows, rows], rtol=1e-6)
    change = space.choose(parse_ratio(0.5))
    assert change.checked(change.made()).agrees


def test_the_basis_is_that_of_the_nearest_product_of_less_rank() -> None:
    """Both sides have one second moment, and what is left out is what the singular values say (Eckart and Young 1936)."""
    draw = np.random.default_rng(2)
    x, y = (
        draw.standard_normal((200, 5)) * [3.0, 1.0, 0.5, 2.0, 1.0] @ draw.standard_normal((5, 5)),
        draw.standard_normal((5, 7)),
    )
    here, there = x.T @ x / len(x), y @ y.T
    basis = balanced_basis(here, there)
    one, two = x @ basis, np.linalg.inv(basis) @ y
    sizes = np.linalg.svd(x @ y, compute_uv=False)
    for rank in range(5):
        lost = np.linalg.norm(x @ y - one[:, :rank] @ two[:rank])
        np.testing.assert_allclose(lost, np.linalg.norm(sizes[rank:5]), rtol=1e-3)
    ratio = np.diag(one.T @ one / len(x)) / np.diag(two @ two.T)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)


REFUSED = {
    "a gain of queries": (GAINED, "(Mul) treats each of its channels differently"),
    "rotary positions": (TURNED, "(Mul) treats each of its channels differently"),
    "a norm of queries": (NORMED, "(LayerNormalization) is not linear in it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_stands_between_queries_and_keys_keeps_them(name: str) -> None:
    """Values and outputs are turned all the same."""
    queries, reason = REFUSED[name]
    model = attention(APART + queries + HEADS.format("k", "k1", 2) + HEADS.format("v", "v1", 2) + SCORES + BEHIND + OUT)
    found = onnxprune.prune(model, rotate=True, **HALF)
    rows = {row["between"]: row for row in found.report["heads"]}
    assert rows[KEYS]["status"] == "kept" and reason in rows[KEYS]["reason"]
    assert rows[VALUES]["status"] == "rotated" and found.report["surgery"]["proven"]


def test_keys_of_before_are_no_layer_s() -> None:
    past = "past = %1x2x3x4; kj = Concat<axis = 2>(past, kh); "
    body = (
        APART
        + INSIDE
        + past
        + SCORES.replace("(kh)", "(kj)")
        + "vp = Concat<axis = 2>(vn, vh); "
        + BEHIND.replace("vh)", "vp)")
        + OUT
    )
    model = network(body, "float[1,5,8] x, float[1,2,3,4] vn", "float[1,5,3] y", opset=23)
    rows = onnxprune.prune(model, rotate=True, ratio=0.5, **CUT).report["heads"]
    assert [(row["between"], row["status"]) for row in rows] == [(KEYS, "rotated")], (
        "a stored past is turned with the rest"
    )


CLOSED = {
    "a cache": "cr, kp, vp = Attention<q_num_heads = 2, kv_num_heads = 2>(q1, k1, v1, , pk, pv); "
    + OUT
    + "; yk = Identity(kp)",
    "one tensor for all": "z = Concat<axis = -1>(q1, k1, v1); z5 = Reshape(z, @[0, 0, 2, 3, 4]); "
    "cr = com.microsoft.MultiHeadAttention<num_heads = 2>(z5); " + OUT,
    "an operator in a body": "c = ReduceMax<keepdims = 0>(x); d = Greater(c, @0.); "
    "v3 = If(d) <then_branch = t () => (float[N,5,8] o) { o = Relu(v1) }, else_branch = e () => (float[N,5,8] o2) { o2 = Neg(v1) }>; "
    "cr = Attention<q_num_heads = 2, kv_num_heads = 2>(q1, k1, v3); " + OUT,
}


@pytest.mark.parametrize("name", CLOSED)
def test_what_cannot_be_followed_stays(name: str) -> None:
    """Nothing is turned of which a part goes where nobody follows; nothing is said of what has no heads that anybody knows."""
    past = ", float[N,2,5,4] pk, float[N,2,5,4] pv" if name == "a cache" else ""
    outputs = Y + ", float[N,2,10,4] yk" if name == "a cache" else Y
    model = network(APART + CLOSED[name], X + past, outputs, opset=23, domains={"com.microsoft": 1})
    found = space_of_heads(model, data=False)
    assert {part.between for part in found.parts()} == ({KEYS} if "body" in name else set())
    change = found.choose(parse_ratio(0.5))
    assert not change.parts or change.checked(change.made()).agrees


def test_whole_heads_need_no_basis() -> None:
    found = onnxprune.prune(attention(SPELLINGS["apart"]), rotate=True, **(HALF | {"granularity": "heads"}))
    assert {row["reason"] for row in found.report["heads"]} == {"its width is not cut: its heads go whole, or stay"}
    assert any("can be rotated" in text for text in found.report["warnings"])


def test_a_head_stands_in_a_stream_that_is_turned() -> None:
    """Projections read the stream on one axis and write heads on the other."""
    norm = "{0}g = %+8; {0}b = %8; {0} = LayerNormalization({1}, {0}g, {0}b); "
    body = (
        "w0 = %8x8; x0 = MatMul(x, w0); "
        + norm.format("n", "x0")
        + SPELLINGS["apart"].replace("MatMul(x,", "MatMul(n,")
    )
    body = (
        body.replace(OUT, "wo = %8x8; o = MatMul(cr, wo); e = Add(x0, o); ")
        + norm.format("z", "e")
        + "wy = %8x3; y = MatMul(z, wy)"
    )
    model = attention(body)
    found = onnxprune.prune(model, rotate=True, **HALF)
    assert {row["status"] for row in (*found.report["streams"], *found.report["heads"])} == {"rotated"}
    assert found.report["surgery"]["proven"] and not found.report["surgery"]["frozen_by_check"]
    (step, *_) = found.report["steps"]
    assert (step["kind"], step["changed"]) == ("rotate", 3)


def test_a_plan_repeats_the_bases_of_heads() -> None:
    model = narrow_heads()
    found = onnxprune.prune(model, rotate=True, **HALF)
    again = onnxprune.apply(found.plan, model, calibration=ROWS, latency=False, repair="none")
    assert again.model == found.model
    with pytest.raises(PlanError, match="give the calibration data"):
        onnxprune.apply(found.plan, model, latency=False)
    with pytest.raises(PlanError, match="rotates the heads 'queries and keys of s0' of width 2 x 4"):
        onnxprune.apply(found.plan, attention(OTHER), calibration=ROWS, latency=False, force=True)


OTHER = SPELLINGS["apart"].replace("2, 4]", "4, 2]")


def test_a_basis_of_heads_that_is_not_exact_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what reads by the inverse is not what it should be: queries and keys fall away, and values and outputs."""
    monkeypatch.setattr("onnxprune.coupling.heads.turning.np.linalg.inv", lambda basis: 1.1 * basis.T)
    model = attention(SPELLINGS["apart"])
    found = onnxprune.prune(model, rotate=True, **HALF)
    assert {row["status"] for row in found.report["heads"]} == {"frozen"}
    assert any("whose rotation is not exact" in text for text in found.report["warnings"])
    plain = onnxprune.prune(model, **HALF)
    assert [group.kept for group in found.plan.groups] == [group.kept for group in plain.plan.groups]
