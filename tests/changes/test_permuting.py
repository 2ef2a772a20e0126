"""``--permute``: channels change places in all tensors of their group, nothing that is computed changes, and N:M keeps more."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper
from support.networks import network
from support.oracles import run

import onnxprune
from onnxprune.changes.permuting.assigning import best_order, kept_sum
from onnxprune.coupling.ordering import moves
from onnxprune.errors import PlanError, UsageError

FAST = {"latency": False}
DRAW = np.random.default_rng(5)

STREAM = (
    "w0 = %8x4x1x1; a = Conv(x, w0); w1 = %8x8x3x3; b1 = %8; c1 = Conv<pads=[1,1,1,1]>(a, w1, b1); r1 = Relu(c1); "
    "w2 = %8x8x3x3; c2 = Conv<pads=[1,1,1,1]>(r1, w2); s = Add(a, c2); r2 = Relu(s); "
    "m = ReduceMean<keepdims=0>(r2, @[2,3]); w3 = %8x5; y = MatMul(m, w3)"
)
NORMED = (
    "w0 = %6x8; a = MatMul(x, w0); g = %+8; n = LayerNormalization<axis=-1>(a, g, %8); w1 = %8x16; h = MatMul(n, w1); "
    "k = Gelu(h); w2 = %16x8; o = MatMul(k, w2); s = Add(a, o); w3 = %8x4; y = MatMul(s, w3)"
)
JOINED = (
    "w1 = %8x4x1x1; a = Conv(x, w1); w2 = %8x4x1x1; b = Conv(x, w2); c = Concat<axis=1>(a, b); r = Relu(c); "
    "d = %16x1x3x3; e = Conv<group=16, pads=[1,1,1,1]>(r, d); w3 = %4x16x1x1; y = Conv(e, w3)"
)
INNER = (
    "w1 = %8x4x3x3; b1 = %8; c1 = Conv<pads=[1,1,1,1]>(x, w1, b1); r1 = Relu(c1); "
    "w2 = %16x8x3x3; b2 = %16; c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2); r2 = Relu(c2); "
    "m = ReduceMean<keepdims=0>(r2, @[2,3]); w3 = %16x8; p = MatMul(m, w3); b3 = %8; y = Add(p, b3)"
)
CASES = {
    "a residual stream": (STREAM, "float[N,4,6,6] x", (8, 4, 6, 6)),
    "a norm over the stream": (NORMED, "float[N,3,6] x", (8, 3, 6)),
    "joined and depthwise": (JOINED, "float[N,4,6,6] x", (8, 4, 6, 6)),
}


def stored(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


# --- the search -------------------------------------------------------------------------------------------------------


def test_the_search_finds_what_trying_every_order_does() -> None:
    for seed in range(4):
        scores = np.random.default_rng(seed).random((5, 6)).astype(np.float32) ** 4
        best = max(kept_sum(scores[:, order], 1, 3) for order in map(list, permutations(range(6))))
        found = best_order(scores, 1, 3, 0)
        assert sorted(found) == list(range(6))
        assert kept_sum(scores[:, found], 1, 3) == pytest.approx(best, rel=1e-6)


def test_orders_keep_at_least_as_much_and_repeat() -> None:
    scores = DRAW.random((40, 64)).astype(np.float32) ** 3
    found = best_order(scores, 2, 4, 7)
    assert kept_sum(scores[:, found], 2, 4) > 1.02 * kept_sum(scores, 2, 4)
    np.testing.assert_array_equal(found, best_order(scores, 2, 4, 7))
    np.testing.assert_array_equal(best_order(scores[:, :4], 2, 4, 0), np.arange(4))


def test_places_of_units_with_several_positions() -> None:
    """Positions of one unit keep their order; what has no unit stays."""
    labels = np.array([0, 1, 2, -1, 0, 1, 2])
    found = moves(labels, np.array([2, 0, 1]))
    assert found is not None and found.tolist() == [2, 0, 1, 3, 6, 4, 5]
    assert moves(labels, np.arange(3)) is None
    with pytest.raises(ValueError, match="some of the channels"):
        moves(np.array([0, 1, 1]), np.array([1, 0]))


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("calibrated", [False, True])
def test_nothing_that_is_computed_changes(case: str, calibrated: bool) -> None:
    """The zeros aside: the model of the first step gives the original's outputs, from the same numbers in other places."""
    text, inputs, shape = CASES[case]
    net = network(text, inputs, "float[] y", opset=20)
    rows = {"x": np.random.default_rng(1).standard_normal((64, *shape[1:])).astype(np.float32)}
    data = {"calibration": rows} if calibrated else {}
    found = onnxprune.prune(net, sparsity="2:4", repair="none", **data, **FAST)
    assert [step["kind"] for step in found.report["steps"]] == ["permute", "zeros"] and found.report["surgery"][
        "proven"
    ]
    assert found.report["prunable"]["parameters"] > 0.8
    reordered = [row for row in found.report["permuted"] if row["status"] == "reordered"]
    assert reordered and all(row["kept_after"] > row["kept_before"] for row in reordered)
    whole = whole_again(found, net)
    x = {"x": DRAW.standard_normal(shape).astype(np.float32)}
    np.testing.assert_allclose(run(whole, x)["y"], run(net, x)["y"], rtol=1e-4, atol=1e-4)
    for name, array in stored(net).items():
        np.testing.assert_array_equal(np.sort(array.reshape(-1)), np.sort(stored(whole)[name].reshape(-1)))


def whole_again(found: onnxprune.Result, net: ModelProto) -> ModelProto:
    """Return the model of the first step: what the plan reorders, without its zeros."""
    from onnxprune.changes.analysing import analyse_model
    from onnxprune.changes.context import Context
    from onnxprune.changes.permuting.space import Permuting
    from onnxprune.model.read import load
    from onnxprune.settings import make_settings

    settings = make_settings({"sparsity": "2:4"})
    model = load(net)
    space = Permuting(Context(analyse_model(model, settings), model, settings))
    return space.read(found.plan.steps[0].record).made().proto


def test_more_is_left_of_the_outputs() -> None:
    net = network(INNER, "float[N,4,6,6] x", "float[] y", opset=18)
    rows = {"x": np.random.default_rng(1).standard_normal((96, 4, 6, 6)).astype(np.float32)}
    y, lost = run(net, rows)["y"], {}
    for permute in (True, False):
        found = onnxprune.prune(net, sparsity="2:4", permute=permute, calibration=rows, **FAST)
        lost[permute] = float(((run(found.model, rows)["y"] - y) ** 2).mean())
    assert lost[True] < 0.8 * lost[False]


def test_a_plan_holds_the_orders(tmp_path: Path) -> None:
    net = network(STREAM, "float[N,4,6,6] x", "float[] y", opset=20)
    rows = {"x": np.random.default_rng(1).standard_normal((64, 4, 6, 6)).astype(np.float32)}
    found = onnxprune.prune(net, sparsity="2:4", calibration=rows, **FAST)
    (tmp_path / "plan.json").write_text(found.plan.to_json())
    for plan in (found.plan, tmp_path / "plan.json"):
        assert onnxprune.apply(plan, net, calibration=rows, latency=False).model == found.model
    record = found.plan.steps[0].record["permuted"]
    record[next(iter(record))][0] = 99
    with pytest.raises(PlanError, match="does not have"):
        onnxprune.apply(found.plan, net, calibration=rows, latency=False)


@pytest.mark.parametrize(
    "more",
    [
        {"sparsity": "0.5"},
        {"sparsity": "2:4", "permute": False},
        {"sparsity": "2:4", "recover": 2, "recover_loss": "blocks"},
    ],
    ids=str,
)
def test_orders_stay_where_nothing_counts_neighbours(more: dict) -> None:
    net = network(STREAM, "float[N,4,6,6] x", "float[] y", opset=20)
    rows = {"x": np.random.default_rng(1).standard_normal((16, 4, 6, 6)).astype(np.float32)}
    found = onnxprune.prune(net, calibration=rows, **more, **FAST)
    assert [step["kind"] for step in found.report["steps"]] == ["zeros"]


def test_groups_that_cannot_move_say_why() -> None:
    """What the outputs show keeps its order, and so does what no layer reads in whole blocks."""
    net = network("w1 = %6x4x1x1; a = Conv(x, w1); r = Relu(a); w2 = %8x6x1x1; y = Conv(r, w2)", "float[N,4,3,3] x")
    found = onnxprune.prune(net, sparsity="2:4", **FAST)
    rows = {row["name"]: row for row in found.report["permuted"]}
    assert rows.keys() == {"w1"} and rows["w1"]["status"] == "kept" and "no layer" in rows["w1"]["reason"]


def test_a_wrong_order_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were a tensor forgotten, the proof would see it, and the zeros go where the channels stand."""
    from onnxprune.changes.permuting import space

    def forgetful(model, labels, source):
        return {name: array for name, array in space_moved(model, labels, source).items() if name != "b1"}

    space_moved = space.moved_tensors
    monkeypatch.setattr(space, "moved_tensors", forgetful)
    net = network(STREAM, "float[N,4,6,6] x", "float[] y", opset=20)
    found = onnxprune.prune(net, sparsity="2:4", **FAST)
    rows = {row["name"]: row["status"] for row in found.report["permuted"]}
    assert rows["w1"] == "frozen" and rows["w0"] == "reordered" and found.report["surgery"]["proven"]


def test_what_it_does_not_go_with_is_refused() -> None:
    net = network(STREAM, "float[N,4,6,6] x", "float[] y", opset=20)
    with pytest.raises(UsageError, match="give --sparsity 2:4"):
        onnxprune.prune(net, permute=True, **FAST)
    with pytest.raises(UsageError, match="by their place, which permute changes"):
        onnxprune.prune(net, permute=True, sparsity="2:4", recover_loss="blocks", **FAST)
