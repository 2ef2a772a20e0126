"""``--sparsity`` on layers that are neither convolutions nor products with a matrix: chosen and refitted by data like these."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper
from support.networks import network
from support.oracles import run

import onnxprune
from onnxprune.changes.zeros import sensitivity
from onnxprune.changes.zeros.contents import differs_beside_zeros
from onnxprune.changes.zeros.patterns import parse_pattern
from onnxprune.changes.zeros.seen import moments_read
from onnxprune.errors import ModelError, TargetError
from onnxprune.model import read
from onnxprune.repair.finding import MAPS
from onnxprune.repair.maps import WeightBlock
from onnxprune.repair.stored import Encoding

FAST = {"latency": False}
STATES = "p = Transpose<perm=[1,0,2]>(x); l = {}; t = Transpose<perm=[2,0,1,3]>(l); r = Reshape(t, @[0,0,-1]); w3 = %{}x8; y = MatMul(r, w3)"
KINDS = {
    "lstm": STATES.format(
        'LSTM<hidden_size=12, direction="bidirectional">(p, w1, w2, b); w1 = %2x48x16; w2 = %2x48x12; b = %2x96', 24
    ),
    "two lstms": "p = Transpose<perm=[1,0,2]>(x); w1 = %1x48x16; w2 = %1x48x12; l = LSTM<hidden_size=12>(p, w1, w2); s = Squeeze(l, @[1]); "
    "w3 = %1x48x12; w4 = %1x48x12; m = LSTM<hidden_size=12>(s, w3, w4); t = Transpose<perm=[2,0,1,3]>(m); w5 = %12x8; y = MatMul(t, w5)",
    "gru": STATES.format("GRU<hidden_size=12>(p, w1, w2); w1 = %1x36x16; w2 = %1x36x12", 12),
    "gru, late": STATES.format(
        "GRU<hidden_size=12, linear_before_reset=1>(p, w1, w2, b); w1 = %1x36x16; w2 = %1x36x12; b = %1x72", 12
    ),
    "rnn": STATES.format("RNN<hidden_size=12>(p, w1, w2, b); w1 = %1x12x16; w2 = %1x12x12; b = %1x24", 12),
    "transposed": "t = Transpose<perm=[0,2,1]>(x); w1 = %16x12x4; b = %12; h = ConvTranspose<strides=[2], pads=[1,1]>(t, w1, b); "
    "e = Relu(h); w2 = %12x4x3; z = ConvTranspose<strides=[2]>(e, w2); y = GlobalAveragePool(z)",
    "einsum": 'w1 = %16x4x8; h = Einsum<equation="bsd,dhk->bhsk">(x, w1); e = Relu(h); w2 = %4x8x16; '
    'y = Einsum<equation="bhsk,hkd->bsd">(e, w2)',
    "attention": "w1 = %16x48; b = %48; a = com.microsoft.Attention<num_heads=2>(x, w1, b); w2 = %16x8; y = MatMul(a, w2)",
    "fused": "w1 = %12x16; h = com.microsoft.FusedMatMul<transB=1, alpha=0.5>(x, w1); e = Relu(h); w2 = %12x8; y = MatMul(e, w2)",
}
"""Tensors named w.. have zeros afterwards."""


def rows(seed: int, count: int) -> dict[str, np.ndarray]:
    """Rows of few directions: weights can stand in for one another."""
    base = np.random.default_rng(0).standard_normal((5, 16))
    return {"x": (np.random.default_rng(seed).standard_normal((count, 6, 5)) @ base * 0.4).astype(np.float32)}


CALIBRATION, UNSEEN = rows(1, 96), rows(2, 32)


def net(kind: str) -> ModelProto:
    text = KINDS[kind]
    named = [part.strip() for part in text.split(";")]
    tensors = [part for part in named if part.split("=")[1].strip().startswith("%")]
    return network(
        "; ".join([*tensors, *(part for part in named if part not in tensors)]),
        "float[N,6,16] x",
        domains={"com.microsoft": 1},
    )


def weights(model: ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name.startswith("w")}


def lost(model: ModelProto, whole: ModelProto) -> float:
    return float(np.square(run(model, UNSEEN)["y"] - run(whole, UNSEEN)["y"]).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_data_choose_and_refit_weights_of_every_kind(kind: str) -> None:
    model = net(kind)
    found = onnxprune.prune(model, sparsity="0.5", calibration=CALIBRATION, **FAST)
    assert found.report["surgery"]["proven"] and not [row for row in found.report["zeros"] if row["by_size"]]
    for name, array in weights(found.model).items():
        assert (array == 0).mean() == pytest.approx(0.5, abs=0.02), name
    by_size = onnxprune.prune(model, sparsity="0.5", criterion="l1", calibration=CALIBRATION, repair="none", **FAST)
    assert lost(found.model, model) < 0.4 * lost(by_size.model, model)
    assert onnxprune.apply(found.plan, model, calibration=CALIBRATION, **FAST).model == found.model


@pytest.mark.parametrize("criterion", ["wanda", "obs", "taylor"])
@pytest.mark.parametrize("kind", ["lstm", "transposed", "einsum"])
def test_criteria_by_name_see_what_such_layers_read(kind: str, criterion: str) -> None:
    """Gradients reach no recurrent layer: its largest weights stay then, refitted all the same."""
    model = net(kind)
    found = onnxprune.prune(model, sparsity="0.5", criterion=criterion, calibration=CALIBRATION, **FAST)
    by_size = onnxprune.prune(model, sparsity="0.5", criterion="l1", calibration=CALIBRATION, repair="none", **FAST)
    assert lost(found.model, model) < 0.8 * lost(by_size.model, model)


@pytest.mark.parametrize("sparsity", ["2:4", "0.5,block=1x4"])
@pytest.mark.parametrize(("kind", "order"), [("lstm", (0, 1, 2)), ("transposed", (2, 1, 0)), ("attention", (1, 0))])
def test_patterns_count_along_what_is_summed(kind: str, order: tuple[int, ...], sparsity: str) -> None:
    """N of every M inputs of one tap: channels of a transposed convolution, inputs and states of a recurrent layer."""
    model, pattern = net(kind), parse_pattern(sparsity)
    found = onnxprune.prune(model, sparsity=sparsity, calibration=CALIBRATION, permute=False, **FAST)
    for name, array in weights(found.model).items():
        if array.ndim != len(order):
            continue
        parts = array.transpose(order).reshape(-1, 4) != 0
        assert set(parts.sum(1)) <= ({0, 1, 2} if pattern.of else {0, 4}), name


@pytest.mark.parametrize(
    ("kind", "op", "most"), [("transposed", "ConvTranspose", 0.6), ("einsum", "Einsum", 0.4), ("gru, late", "GRU", 0.9)]
)
def test_least_squares_of_a_cut_reach_them_too(
    kind: str, op: str, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of a layer makes up for the units that went before it, or for the states that it lost itself."""
    model = net(kind)
    options = {"ratio": 0.3, "round_to": 1, "calibration": CALIBRATION, "search": 0.0, "repair": "least-squares"}
    reached = onnxprune.prune(model, **options, **FAST).model
    monkeypatch.delitem(MAPS, op)
    assert lost(reached, model) < most * lost(onnxprune.prune(model, **options, **FAST).model, model)


def test_masks_of_one_of_two_weights(tmp_path: Path) -> None:
    model = net("lstm")
    left = np.random.default_rng(0).random((2, 48, 16)) < 0.5
    np.savez(tmp_path / "masks.npz", w1=left)
    found = onnxprune.prune(model, sparsity=str(tmp_path / "masks.npz"), calibration=CALIBRATION, **FAST)
    made = weights(found.model)
    assert not made["w1"][~left].any() and made["w2"].all()
    masked = {t.name: t for t in model.graph.initializer}
    masked["w1"].CopyFrom(numpy_helper.from_array(weights(model)["w1"] * left, "w1"))
    assert lost(found.model, net("lstm")) < 0.5 * lost(model, net("lstm"))


def test_what_is_no_contraction_says_so() -> None:
    """The product of three operands has no single input: its weight becomes zero by size, and the report says why."""
    body = 'w1 = %4x8; h = MatMul(x, w1); w2 = %8x8; w3 = %8x6; y = Einsum<equation="sd,de,ef->sf">(h, w2, w3)'
    data = {"x": np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)}
    found = onnxprune.prune(network(body, "float[N,4] x"), sparsity="0.5", calibration=data, **FAST)
    told = {row["name"]: row["by_size"] for row in found.report["zeros"]}
    assert told["w1"] is None and "no product" in told["w3"]
    assert any("largest weights stay" in text and "w3" in text for text in found.report["warnings"])
    blind = onnxprune.prune(network(body, "float[N,4] x"), sparsity="0.5", **FAST)
    assert {row["by_size"] for row in blind.report["zeros"]} == {None}


@pytest.mark.parametrize("calibrated", [False, True])
def test_weights_that_nodes_hold(calibrated: bool) -> None:
    """Tensors of Constant nodes are stored tensors like others."""
    model = net("transposed")
    held = [t for t in model.graph.initializer if t.name.startswith("w")]
    nodes = [onnx.helper.make_node("Constant", [], [t.name], value=t) for t in held]
    others = [t for t in model.graph.initializer if not t.name.startswith("w")]
    for field, content in ((model.graph.initializer, others), (model.graph.node, [*nodes, *model.graph.node])):
        del field[:]
        field.extend(content)
    data = {"calibration": CALIBRATION} if calibrated else {}
    found = onnxprune.prune(model, sparsity="0.5", **data, **FAST)
    arrays = [numpy_helper.to_array(n.attribute[0].t) for n in found.model.graph.node if n.op_type == "Constant"]
    assert [float((array == 0).mean()) for array in arrays if array.ndim == 3] == [0.5, 0.5]


BLOCK = "w1 = %16x24; b1 = %24; w2 = %24x16; b2 = %16; s = %+16; c = %16; w3 = %16x8; h = MatMul(x, w1); {} y = MatMul(n, w3)"
PLAIN = BLOCK.format(
    "a = Add(h, b1); g = Gelu(a); z = MatMul(g, w2); i = Add(z, b2); r = Add(i, x); n = LayerNormalization(r, s, c);"
)
FUSED = BLOCK.format(
    "g = com.microsoft.BiasGelu(h, b1); z = MatMul(g, w2); n = com.microsoft.SkipLayerNormalization<epsilon=1e-05>(z, x, s, c, b2);"
)


def test_a_fused_block_is_fitted_as_a_plain_one() -> None:
    """Biases and the shortcut that fused operators add are those of the operators that they were made of."""
    plain, fused = (network(text, "float[N,6,16] x", domains={"com.microsoft": 1}) for text in (PLAIN, FUSED))
    for old, new in zip(plain.graph.initializer, fused.graph.initializer, strict=True):
        new.CopyFrom(old)
    np.testing.assert_allclose(run(fused, UNSEEN)["y"], run(plain, UNSEEN)["y"], rtol=1e-3, atol=1e-3)
    options = {"sparsity": "0.5", "criterion": "l1", "calibration": CALIBRATION}  # a search would make much of rounding
    found = [onnxprune.prune(model, **options, **FAST).model for model in (plain, fused)]
    tensors = [{t.name: numpy_helper.to_array(t) for t in model.graph.initializer} for model in found]
    for name, array in tensors[0].items():
        np.testing.assert_allclose(tensors[1][name], array, rtol=1e-2, atol=1e-2, err_msg=name)


def test_a_fused_norm_that_a_cut_spells_out_still_has_its_sum() -> None:
    """The sum has a name then that the original does not know: what it is there follows from what it is of."""
    before = "w0 = %16x16; b0 = %16; i0 = MatMul(x, w0); x0 = Add(i0, b0); h = MatMul(x0, w1);"
    text = FUSED.replace("h = MatMul(x, w1);", before).replace("(z, x, s", "(z, x0, s")
    model = network(text, "float[N,6,16] x", domains={"com.microsoft": 1})
    options = {"ratio": 0.4, "round_to": 1, "calibration": CALIBRATION, "search": 0.0, "criterion": "l1"}
    repaired = onnxprune.prune(model, repair="least-squares", **options, **FAST).model
    assert any(t.name == "b2" and len(numpy_helper.to_array(t)) < 16 for t in repaired.graph.initializer)
    assert lost(repaired, model) < 0.3 * lost(onnxprune.prune(model, repair="none", **options, **FAST).model, model)


QUANTISED = {
    "transposed": "t = Transpose<perm=[0,2,1]>(x); q1 = %16x12x4:int8; w1 = DequantizeLinear(q1, @0.01, @3:int8); h = ConvTranspose<strides=[2]>(t, w1); "
    "y = GlobalAveragePool(h)",
    "lstm": "p = Transpose<perm=[1,0,2]>(x); q1 = %1x48x16:int8; q2 = %1x48x12:int8; w1 = DequantizeLinear(q1, @0.01, @3:int8); "
    "w2 = DequantizeLinear(q2, @0.01, @0:int8); y = LSTM<hidden_size=12>(p, w1, w2)",
}


@pytest.mark.parametrize("kind", QUANTISED)
def test_weights_on_their_grid(kind: str) -> None:
    """Integers become their zero point; those that stay are fitted, and stay on the grid."""
    model = network(QUANTISED[kind], "float[N,6,16] x")
    points = {"q1": 3, "q2": 0}
    for number, tensor in enumerate(t for t in model.graph.initializer if t.name in points):
        drawn = np.random.default_rng(number).integers(-100, 100, tensor.dims).astype(np.int8)
        tensor.CopyFrom(numpy_helper.from_array(drawn, tensor.name))
    found = onnxprune.prune(model, sparsity="0.5", calibration=CALIBRATION, **FAST)
    for tensor in found.model.graph.initializer:
        if tensor.name in points:
            array = numpy_helper.to_array(tensor)
            assert array.dtype == np.int8 and (array == points[tensor.name]).mean() == pytest.approx(0.5, abs=0.03)
    by_size = onnxprune.prune(model, sparsity="0.5", criterion="l1", calibration=CALIBRATION, repair="none", **FAST)
    assert lost(found.model, model) < 0.6 * lost(by_size.model, model)


# --- models that take no drawn input -------------------------------------------------------------------------------------


def test_sizes_that_steps_are_written_out_for() -> None:
    """Inputs of fewer steps than the graph names are refused: the proof then runs at the sizes that it is made for."""
    body = "w1 = %8x4x3x3; h = Conv<pads=[1,1,1,1]>(x, w1); e = Relu(h); w2 = %4x8x3x3; z = Conv<pads=[1,1,1,1]>(e, w2); y = Gather<axis=3>(z, @[0,70,150])"
    found = onnxprune.prune(network(body, "float[1,4,64,160] x"), sparsity="2:4", **FAST)
    proof = found.report["surgery"]
    assert proof["proven"] and proof["outputs"]["y"]["proven"] and proof["outputs"]["y"]["moved"] > 0


REFUSING = "w1 = %8x8; h = MatMul(x, w1); e = Relu(h); w2 = %8x8; z = MatMul(e, w2); f = Mul(s, @1000.0); i = Cast<to=7>(f); g = Gather(z, i); y = Add(g, @1.0)"


@pytest.mark.parametrize("sparsity", ["0.5", "2:4"])
def test_nothing_but_zeros_differs_where_no_input_is_taken(sparsity: str) -> None:
    """Rows are picked by an input that no drawn one is like: what both models hold is compared, channels keep their order."""
    model = network(REFUSING, "float[6,8] x, float[2] s")
    found = onnxprune.prune(model, sparsity=sparsity, **FAST)
    assert found.report["surgery"]["proven"]
    assert any("comparing nodes and stored tensors" in text for text in found.report["warnings"])
    for name, array in weights(found.model).items():
        kept = array != 0
        assert kept.mean() == 0.5
        np.testing.assert_array_equal(array[kept], weights(model)[name][kept])
    with pytest.raises(ModelError, match="drawn inputs"):
        onnxprune.prune(model, ratio=0.5, round_to=1, **FAST)


def test_other_differences_are_found() -> None:
    """The comparison of what two models hold sees a weight, a node and an output that are other ones."""
    model = read.load(network(REFUSING, "float[6,8] x, float[2] s"))
    held = Encoding("w1")
    block, mask = WeightBlock(held, (8, 8), ((), (1,), (0,))), np.eye(8, dtype=bool)[None]
    array = model.weights["w1"].read()
    emptied = model.replaced({"w1": np.where(np.eye(8, dtype=bool), array, 0)})
    assert differs_beside_zeros(model, emptied, [(block, mask)]) == ""
    assert "w1" in differs_beside_zeros(model, model, [(block, mask)])
    other = emptied.replaced({"w2": emptied.weights["w2"].read() + 1})
    assert "w2" in differs_beside_zeros(model, other, [(block, mask)])
    renamed = emptied.draft()
    renamed.graph.node[1].op_type = "Sigmoid"
    assert "nodes" in differs_beside_zeros(model, emptied.derived(renamed), [(block, mask)])


TABLES = {
    "plain": ("t = %40x16; e = Gather(t, i)", "t"),
    "quantised before": ("t = %40x16:int8; s = %+40; d = DequantizeLinear<axis=0>(t, s); e = Gather(d, i)", "t"),
}


@pytest.mark.parametrize("case", TABLES)
@pytest.mark.parametrize("pattern", ["0.5", "2:4"])
def test_entries_of_tables_where_asked_for(case: str, pattern: str) -> None:
    """By size alone; what reads the embeddings is refitted on them. Otherwise, and where a head shares the table, they stay."""
    body, name = TABLES[case]
    net = network(f"{body}; w = %16x8; y = MatMul(e, w)", "int64[N,5] i", "float[] y")
    rows = {"i": np.random.default_rng(4).integers(0, 40, (64, 5))}
    found = onnxprune.prune(net, sparsity=pattern, embeddings=True, calibration=rows, latency=False)
    table = next(numpy_helper.to_array(t) for t in found.model.graph.initializer if t.name == name)
    assert (table == 0).mean() == pytest.approx(0.5, abs=0.05)
    (row,) = (row for row in found.report["zeros"] if row["name"] == name)
    assert row["status"] == "pruned" and "looked up" in row["by_size"]
    plain = onnxprune.prune(net, sparsity=pattern, calibration=rows, latency=False)
    assert {row["name"] for row in plain.report["zeros"] if row["zeros"]} == {"w"}


def test_a_table_that_a_head_shares_stays() -> None:
    net = network(
        "t = %40x16; e = Gather(t, i); u = Transpose<perm=[1,0]>(t); y = MatMul(e, u)", "int64[N,5] i", "float[] y"
    )
    with pytest.raises(TargetError, match="no layer of this model can have zeros"):
        onnxprune.prune(net, sparsity="0.5", embeddings=True, latency=False)


UNROLLED = (
    "w = %12x12; b = %12; h0 = Gemm(x, w, b); r0 = Tanh(h0); h1 = Gemm(r0, w, b); r1 = Tanh(h1); h2 = Gemm(r1, w, b); r2 = Tanh(h2); "
    "v = %12x4; y = MatMul(r2, v)"
)


@pytest.mark.parametrize("pattern", ["0.5", "2:4"])
def test_steps_that_share_a_weight_are_fitted_together(pattern: str) -> None:
    """To what all of them read; nearer to the original than the largest weights alone."""
    net = network(UNROLLED, "float[N,12] x", "float[] y")
    rows = np.random.default_rng(6).standard_normal((256, 12)).astype(np.float32) @ np.diag(np.linspace(0.1, 2, 12))
    rows = {"x": rows.astype(np.float32)}
    lost = {}
    for repair in ("auto", "none"):
        criterion = "auto" if repair == "auto" else "l1"
        found = onnxprune.prune(
            net, sparsity=pattern, permute=False, calibration=rows, repair=repair, criterion=criterion, **FAST
        )
        lost[repair] = float(np.square(run(found.model, rows)["y"] - run(net, rows)["y"]).mean())
        (row,) = (row for row in found.report["zeros"] if row["name"] == "w")
        assert row["status"] == "pruned", row
        assert {row["status"] for row in found.report["zeros"]} == {"pruned"}
        assert row["zeros"] == 72 and not row["by_size"]
    assert lost["auto"] < 0.9 * lost["none"]


def test_a_weight_read_in_two_ways_stays() -> None:
    net = network("w = %12x12; h = MatMul(x, w); r = Tanh(h); y = Gemm<transB=1>(r, w)", "float[N,12] x", "float[] y")
    with pytest.raises(TargetError, match="no layer of this model can have zeros"):
        onnxprune.prune(net, sparsity="0.5", **FAST)


def test_moments_of_windows_stand_as_their_weights_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taps one after the other, the channels of each side by side: what sparse forms, orders and shares of zeros are found by."""
    net = network("w = %5x3x2x2; y = Conv(x, w)", "float[N,3,4,4] x", "float[] y")
    rows = (np.random.default_rng(0).standard_normal((16, 3, 4, 4)) * np.array([1, 2, 3])[:, None, None]).astype(
        np.float32
    )
    patches = np.concatenate([rows[:, :, i : i + 2, j : j + 2].reshape(16, 3, 4) for i in range(3) for j in range(3)])
    by_tap = patches.swapaxes(1, 2).reshape(-1, 12).astype(np.float64)
    seen = []

    def read(*given: Any, **how: Any) -> Iterator[Any]:
        for layer, moment in moments_read(*given, **how):
            seen.append(moment.copy())
            yield layer, moment

    monkeypatch.setattr(sensitivity, "moments_read", read)
    onnxprune.prune(net, sparsity="0.5", scope="error", calibration={"x": rows}, **FAST)
    np.testing.assert_allclose(seen[0][0], by_tap.T @ by_tap / len(by_tap), rtol=1e-4, atol=1e-4)
