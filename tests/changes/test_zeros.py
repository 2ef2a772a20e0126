"""``--sparsity``: weights become zero in patterns, chosen and refitted by data; masks; what cannot have zeros says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto, numpy_helper
from support.networks import network
from support.oracles import run

import onnxprune
from onnxprune.changes.zeros.patterns import Pattern, largest, parse_pattern
from onnxprune.changes.zeros.sensitivity import POWER, shares_by_loss
from onnxprune.changes.zeros.spreads import SPREADS
from onnxprune.cli import main
from onnxprune.errors import DataError, PlanError, TargetError, UsageError
from onnxprune.repair.moments import CrossMoments, solve
from onnxprune.repair.support import Support
from onnxprune.settings import BY_SIZE

NET = (
    "w1 = %8x4x3x3; b1 = %8; c1 = Conv<pads=[1,1,1,1]>(x, w1, b1); r1 = Relu(c1); "
    "w2 = %16x8x3x3; b2 = %16; c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2); r2 = Relu(c2); "
    "m = ReduceMean<keepdims=0>(r2, @[2,3]); w3 = %16x8; p = MatMul(m, w3); b3 = %8; y = Add(p, b3)"
)
X = "float[N,4,6,6] x"
ROWS = {"x": np.random.default_rng(1).standard_normal((96, 4, 6, 6)).astype(np.float32)}
FAST = {"latency": False}


@pytest.fixture(scope="module")
def net() -> ModelProto:
    return network(NET, X, "float[N,8] y", opset=18)


def weights(model: ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name.startswith("w")}


# --- patterns ---------------------------------------------------------------------------------------------------------


def test_texts_of_patterns() -> None:
    assert parse_pattern("0.7") == Pattern(0.7)
    assert parse_pattern("70%") == Pattern(0.7)
    assert parse_pattern("2:4") == Pattern(0.5, (2, 4))
    assert parse_pattern("0.75,block=1x16") == Pattern(0.75, None, (1, 16))
    assert str(parse_pattern("4:8")) == "4:8" and parse_pattern(str(Pattern(0.3, None, (2, 4)))) == Pattern(
        0.3, None, (2, 4)
    )
    for wrong in ("", "1", "0", "4:2", "0:4", "2:4,0.5", "block=0x4", "half", "-0.5", "nan"):
        with pytest.raises(UsageError, match="sparsity"):
            parse_pattern(wrong)


@pytest.mark.parametrize(
    "pattern", [Pattern(0.3), Pattern(0.5, (2, 4)), Pattern(0.875, (1, 8)), Pattern(0.5, None, (2, 4))], ids=str
)
def test_the_largest_stay(pattern: Pattern) -> None:
    scores = np.abs(np.random.default_rng(0).standard_normal((2, 6, 16)))
    left = pattern.kept(scores)
    assert left.mean() == pytest.approx(1 - pattern.share, abs=0.01)
    if pattern.of:
        n, m = pattern.of
        parts, marked = scores.reshape(-1, m), left.reshape(-1, m)
        assert (marked.sum(1) == n).all()
        assert (np.where(marked, parts, np.inf).min(1) >= np.where(marked, -np.inf, parts).max(1)).all()
    else:
        r, c = pattern.block
        blocks = left.reshape(2, 6 // r, r, 16 // c, c)
        assert (blocks.all(axis=(2, 4)) == blocks.any(axis=(2, 4))).all()


def test_of_equal_scores_the_first_stay() -> None:
    assert largest(np.ones(5), 2).tolist() == [True, True, False, False, False]
    assert largest(np.array([1.0, 3.0, 3.0, 0.0]), 1).tolist() == [False, True, False, False]
    assert not largest(np.ones(3), 0).any() and largest(np.ones(3), 3).all()


# --- the solver -------------------------------------------------------------------------------------------------------


def problem(rows: int = 400, d: int = 24, o: int = 12) -> tuple[CrossMoments, np.ndarray]:
    """Return correlated rows, and a dense weight whose outputs are the targets."""
    draw = np.random.default_rng(2)
    x = (draw.standard_normal((1, rows, d)) @ draw.standard_normal((d, d))).astype(np.float32)
    weight = draw.standard_normal((1, o, d))
    t = (x @ weight.swapaxes(1, 2)).astype(np.float32)
    moments = CrossMoments.around(x, t)
    moments.update(x, t)
    return moments, weight


def error(moments: CrossMoments, weight: np.ndarray, old: np.ndarray) -> float:
    gap = weight - old
    return float(np.einsum("god,gde,goe->", gap, moments.second_moment, gap))


@pytest.mark.parametrize("pattern", [Pattern(0.5), Pattern(0.5, (2, 4)), Pattern(0.5, None, (1, 4))], ids=str)
def test_the_search_beats_magnitudes_and_greedy_choices(pattern: Pattern) -> None:
    moments, old = problem()
    found, _ = Support(pattern.kept).within(solve)(moments, old, 1e-4, False)
    assert (found != 0).mean() <= 1 - pattern.share + 0.01
    by_size = pattern.kept(np.abs(old))
    refitted, _ = Support(pattern.kept, by_size).within(solve)(moments, old, 1e-4, False)
    assert ((refitted != 0) <= by_size).all()
    assert error(moments, found, old) < 0.9 * error(moments, refitted, old) < 0.9 * error(moments, old * by_size, old)


def test_weights_on_a_support_are_the_least_squares_solution() -> None:
    moments, old = problem()
    left = Pattern(0.5).kept(np.abs(old))
    found, _ = Support(Pattern(0.5).kept, left).within(solve)(moments, old, 0.0, False)
    gram = moments.second_moment[0]
    for row in range(old.shape[1]):
        on = left[0, row]
        best = np.linalg.solve(gram[np.ix_(on, on)], gram[on] @ old[0, row])
        np.testing.assert_allclose(found[0, row, on], best, rtol=2e-2, atol=2e-2)


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", ["0.6", "2:4", "0.5,block=1x4", "0.5,block=4x1"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_files_hold_the_pattern(net: ModelProto, sparsity: str, calibrated: bool) -> None:
    """All shapes stay, and so do outputs as far as that goes: refitted weights lose less than masked ones."""
    rows = {"calibration": ROWS} if calibrated else {}
    found = onnxprune.prune(net, sparsity=sparsity, **rows, **FAST)
    pattern = parse_pattern(sparsity)
    assert found.report["steps"][-1]["kind"] == "zeros" and found.report["surgery"]["proven"]
    for name, array in weights(found.model).items():
        assert array.shape == weights(net)[name].shape
        matrix = array.transpose(0, 2, 3, 1).reshape(array.shape[0], -1) if array.ndim == 4 else array.T
        if pattern.of:
            assert ((matrix.reshape(-1, pattern.of[1]) != 0).sum(1) <= pattern.of[0]).all()
        else:
            assert (matrix == 0).mean() == pytest.approx(pattern.share, abs=0.02)
    if calibrated:
        masked = onnxprune.prune(net, sparsity=sparsity, **FAST).model
        whole = run(net, ROWS)["y"]
        lost = [float(((run(model, ROWS)["y"] - whole) ** 2).mean()) for model in (found.model, masked)]
        assert lost[0] < 0.7 * lost[1]


def test_structure_goes_first(net: ModelProto) -> None:
    found = onnxprune.prune(net, ratio=0.5, round_to=1, sparsity="0.5", **FAST)
    assert [step["kind"] for step in found.report["steps"]] == ["units", "zeros"]
    assert weights(found.model)["w2"].shape == (8, 4, 3, 3)
    assert (weights(found.model)["w2"] == 0).mean() == 0.5
    alone = onnxprune.prune(net, structured=False, ratio=0.7, **FAST)
    assert (weights(alone.model)["w2"] == 0).mean() == pytest.approx(0.7, abs=0.01)


def test_a_plan_repeats_the_zeros(net: ModelProto, tmp_path: Path) -> None:
    found = onnxprune.prune(net, sparsity="0.6", calibration=ROWS, **FAST)
    assert onnxprune.apply(found.plan, net, calibration=ROWS, latency=False).model == found.model
    (tmp_path / "plan.json").write_text(found.plan.to_json())
    again = onnxprune.apply(tmp_path / "plan.json", net, calibration=ROWS, latency=False)
    assert again.model == found.model and again.plan.to_json() == found.plan.to_json()
    with pytest.raises(PlanError, match="give the calibration data"):
        onnxprune.apply(found.plan, net, latency=False)
    blind = onnxprune.prune(net, sparsity="2:4", **FAST)
    assert onnxprune.apply(blind.plan, net, latency=False).model == blind.model


@pytest.mark.parametrize(
    "options",
    [
        {"repair": "none"},
        {"repair": "none", "criterion": "wanda"},
        {"criterion": "taylor", "seed": 3},
        {"seed": 5},
        {"scope": "error"},
        {"ratio": 0.3, "round_to": 1, "repair": "bias", "search": 0.0},
    ],
    ids=str,
)
def test_a_plan_repeats_how_weights_were_found(net: ModelProto, options: dict) -> None:
    """What a run said of repair and seed holds for its plan on the same data, unless it is said anew."""
    found = onnxprune.prune(net, sparsity="0.6", calibration=ROWS, **options, **FAST)
    again = onnxprune.apply(found.plan, net, calibration=ROWS, latency=False)
    assert again.model == found.model
    if options == {"seed": 5}:
        assert onnxprune.apply(found.plan, net, calibration=ROWS, seed=6, latency=False).model != found.model


@pytest.mark.parametrize(
    "more",
    [
        {"target": "macs=50%"},
        {"max_divergence": 0.1},
        {"schedule": "linear:2"},
        {"search": 5.0},
        {"ratio": 0.5, "sparsity": "0.7"},
    ],
    ids=str,
)
def test_what_zeros_alone_cannot_do_is_refused(net: ModelProto, more: dict) -> None:
    with pytest.raises(UsageError, match="leave"):
        onnxprune.prune(net, structured=False, calibration=ROWS, **FAST, **more)


def test_so_many_parameters_are_left(net: ModelProto) -> None:
    """A target counts all parameters of the model, biases too, which stay."""
    found = onnxprune.prune(net, structured=False, target="params=40%", **FAST)
    every = [numpy_helper.to_array(t) for t in found.model.graph.initializer if t.data_type == 1]
    left, whole = (sum(int(part(array)) for array in every) for part in (np.count_nonzero, np.size))
    assert left / whole == pytest.approx(0.4, abs=0.01)
    assert onnxprune.apply(found.plan, net, latency=False).model == found.model
    with pytest.raises(TargetError, match="out of reach"):
        onnxprune.prune(net, structured=False, target="params=1%", **FAST)


@pytest.mark.parametrize("criterion", ["l1", "lamp", "wanda", "ria", "obd", "obs", "taylor", "snip", "grasp", "fisher"])
def test_criteria_by_name(net: ModelProto, criterion: str) -> None:
    found = onnxprune.prune(net, sparsity="0.6", criterion=criterion, calibration=ROWS, **FAST)
    assert (weights(found.model)["w2"] == 0).mean() == pytest.approx(0.6, abs=0.01)


def test_scores_by_gradients_are_those_of_the_loss(net: ModelProto) -> None:
    """Labels give the loss: the weights that stay are those of the largest |w dL/dw|, by finite differences."""
    x, labels = ROWS["x"][:8], np.arange(8) % 8
    found = onnxprune.prune(
        net, sparsity="0.75", criterion="snip", repair="none", calibration={"x": x}, labels=labels, batch=8, **FAST
    )
    old, step = weights(net)["w3"].astype(np.float64), 1e-2

    def loss(weight: np.ndarray) -> float:
        again = ModelProto()
        again.CopyFrom(net)
        for tensor in again.graph.initializer:
            if tensor.name == "w3":
                tensor.CopyFrom(numpy_helper.from_array(weight.astype(np.float32), "w3"))
        y = run(again, {"x": x})["y"].astype(np.float64)
        y -= y.max(1, keepdims=True)
        return float(np.mean(np.log(np.exp(y).sum(1)) - y[np.arange(8), labels]))

    scores = np.zeros(old.shape)
    for place in np.ndindex(old.shape):
        there = np.zeros(old.shape)
        there[place] = step
        scores[place] = abs(old[place] * (loss(old + there) - loss(old - there)) / (2 * step))
    left = weights(found.model)["w3"] != 0
    wanted = Pattern(0.75).kept(scores.T[None])[0].T
    assert left.sum() == wanted.sum() and (left & wanted).sum() >= wanted.sum() - 2


def test_gradients_take_data(net: ModelProto) -> None:
    with pytest.raises(DataError, match="looks at data"):
        onnxprune.prune(net, sparsity="0.5", criterion="fisher", **FAST)


def earlier(net: ModelProto) -> ModelProto:
    """Return the same network with other weights, as it might have been before training."""
    again, draw = ModelProto(), np.random.default_rng(8)
    again.CopyFrom(net)
    for tensor in again.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(draw.standard_normal(array.shape).astype(np.float32), tensor.name))
    return again


@pytest.mark.parametrize("criterion", ["magnitude-increase", "movement", "l1", "auto"])
def test_earlier_weights(net: ModelProto, criterion: str) -> None:
    """Trained weights choose, beside the earlier ones where the criterion says so; the result has the earlier ones, all of them."""
    early = earlier(net)
    found = onnxprune.prune(net, sparsity="0.6", criterion=criterion, rewind=early, calibration=ROWS, **FAST)
    every = {t.name: numpy_helper.to_array(t) for t in found.model.graph.initializer}
    for tensor in early.graph.initializer:
        left = found.masks.get(tensor.name, np.ones(every[tensor.name].shape, bool))
        np.testing.assert_array_equal(every[tensor.name], np.where(left, numpy_helper.to_array(tensor), 0))
    now, then = weights(net)["w2"], weights(early)["w2"]
    scores = {"magnitude-increase": np.abs(now) - np.abs(then), "movement": now * (now - then), "l1": np.abs(now)}
    if criterion in scores:
        left = found.masks["w2"]
        assert scores[criterion][left].min() >= scores[criterion][~left].max()
    with pytest.raises(PlanError, match="earlier weights"):
        onnxprune.apply(found.plan, net, calibration=ROWS, latency=False)


def test_what_earlier_weights_do_not_go_with(net: ModelProto) -> None:
    with pytest.raises(UsageError, match="give these"):
        onnxprune.prune(net, sparsity="0.5", criterion="movement", **FAST)
    with pytest.raises(UsageError, match="give --no-permute"):
        onnxprune.prune(net, sparsity="2:4", rewind=earlier(net), **FAST)
    other = network(NET.replace("w3 = %16x8", "w3 = %16x9").replace("b3 = %8", "b3 = %9"), X, "float[N,9] y", opset=18)
    with pytest.raises(UsageError, match="another network"):
        onnxprune.prune(net, sparsity="0.5", rewind=other, **FAST)


def test_the_same_multiple_of_each_deviation(net: ModelProto) -> None:
    """Class-distribution: one threshold on sizes in standard deviations; class-uniform: the same share of each layer."""
    found = onnxprune.prune(net, sparsity="0.6", threshold="class-distribution", criterion="l1", **FAST)
    edges = {
        n: np.abs(weights(net)[n][a == 0]).max() / np.abs(weights(net)[n]).std()
        for n, a in weights(found.model).items()
    }
    assert max(edges.values()) == pytest.approx(min(edges.values()), rel=0.1)
    even = onnxprune.prune(net, sparsity="0.6", threshold="class-uniform", criterion="l1", **FAST)
    for array in weights(even.model).values():
        assert (array == 0).mean() == pytest.approx(0.6, abs=0.01)


def test_shares_by_what_the_outputs_lose(net: ModelProto) -> None:
    """A layer of which the outputs show a twentieth loses a four-hundredth per weight, and the odds of its zeros tell so."""
    both = network(
        "w1 = %32x64; a = MatMul(x, w1); w2 = %32x64; b = MatMul(x, w2); c = Mul(b, @0.05); y = Add(a, c)",
        "float[N,32] x",
    )
    rows = {"x": np.random.default_rng(2).standard_normal((256, 32)).astype(np.float32)}
    found = onnxprune.prune(both, sparsity="0.6", scope="error", calibration=rows, **FAST)
    shares = {row["name"]: row["zeros"] / row["weights"] for row in found.report["zeros"]}
    assert np.mean(list(shares.values())) == pytest.approx(0.6, abs=0.01)
    odds = {name: share / (1 - share) for name, share in shares.items()}
    assert np.log(odds["w2"] / odds["w1"]) == pytest.approx(POWER * np.log(400), rel=0.15)
    found = onnxprune.prune(net, sparsity="2:4", scope="error", calibration=ROWS, permute=False, **FAST)
    for array in weights(found.model).values():  # a pattern says how many weights of each layer go
        assert (array == 0).mean() >= 0.5
    with pytest.raises(DataError, match="give calibration data"):
        onnxprune.prune(net, sparsity="0.6", scope="error", **FAST)


def test_odds_of_zeros_fall_with_a_power_of_the_loss_per_weight() -> None:
    sizes, lost = {"a": 1000, "b": 4000, "c": 2000}, {"a": 1.0, "b": 0.2, "c": 30.0}
    shares = shares_by_loss(sizes, lost, 0.7)
    assert sum(shares[name] * sizes[name] for name in sizes) == pytest.approx(0.7 * 7000)
    odds = {name: np.log(share / (1 - share)) for name, share in shares.items()}
    for one, other in (("a", "b"), ("b", "c")):
        per_weight = np.log(lost[one] / sizes[one]) - np.log(lost[other] / sizes[other])
        assert odds[one] - odds[other] == pytest.approx(-POWER * per_weight)
    assert shares_by_loss({}, {}, 0.5) == {}
    assert max(shares_by_loss(sizes, dict.fromkeys(sizes, 0.0), 0.9).values()) < 1


@pytest.mark.parametrize("scope", BY_SIZE)
def test_shares_by_the_sizes_of_layers(net: ModelProto, scope: str) -> None:
    """Densities are in proportion to (outputs + inputs + kernel) / weights, one at most, and all zeros together are as asked for."""
    found = weights(onnxprune.prune(net, sparsity="0.6", scope=scope, **FAST).model)
    every = np.concatenate([array.reshape(-1) for array in found.values()])
    assert (every == 0).mean() == pytest.approx(0.6, abs=0.01)
    sizes = {"w1": (8, 4, 3, 3), "w2": (16, 8, 3, 3), "w3": (8, 16)}
    kernel = slice(None) if scope.endswith("kernel") else slice(2)
    wanted = {name: sum(shape[kernel]) / np.prod(shape[kernel]) for name, shape in sizes.items()}
    ratios = [float((found[n] != 0).mean()) / wanted[n] for n in found if (found[n] != 0).mean() < 1]
    assert len(ratios) > 1 and max(ratios) == pytest.approx(min(ratios), rel=0.05)
    assert set(SPREADS) == set(BY_SIZE)
    with pytest.raises(UsageError, match="give --unstructured"):
        onnxprune.prune(net, scope=scope, **FAST)


def test_one_threshold_for_all_layers(net: ModelProto) -> None:
    found = onnxprune.prune(net, sparsity="0.6", scope="global", criterion="lamp", **FAST)
    shares = {row["name"]: row["zeros"] / row["weights"] for row in found.report["zeros"]}
    assert len(set(shares.values())) > 1
    every = np.concatenate([a.reshape(-1) for a in weights(found.model).values()])
    assert (every == 0).mean() == pytest.approx(0.6, abs=0.01)


def test_masks_of_a_trainer(net: ModelProto, tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    masks = {name: draw.random(array.shape) < 0.5 for name, array in weights(net).items() if name != "w1"}
    path = tmp_path / "masks.npz"
    np.savez(path, **masks)
    for rows in ({}, {"calibration": ROWS}):
        found = onnxprune.prune(net, sparsity=str(path), **rows, **FAST)
        for name, mask in masks.items():
            assert (weights(found.model)[name][~mask] == 0).all()
        with pytest.raises(PlanError, match="file of masks"):
            onnxprune.apply(found.plan, net, latency=False, **rows)
        if not rows:
            np.testing.assert_array_equal(weights(found.model)["w2"], np.where(masks["w2"], weights(net)["w2"], 0))


def test_masks_are_written_for_trainers(tmp_path: Path, net: ModelProto) -> None:
    """What is written is read again, and no other file is replaced."""
    model, masks, out = tmp_path / "net.onnx", tmp_path / "masks.npz", tmp_path / "sparse.onnx"
    onnx.save(net, model)
    command = [str(model), str(out), "--sparsity", "2:4", "--masks", str(masks), "--no-latency"]
    assert CliRunner().invoke(main, command).exit_code == 0
    found = onnxprune.prune(model, sparsity=str(masks), **FAST)
    same = weights(onnx.load(out))
    for name, array in weights(found.model).items():
        np.testing.assert_array_equal(array, same[name])
    assert CliRunner().invoke(main, [*command, "--force"]).exit_code == 0
    same = [str(model), str(out), "--sparsity", str(masks), "--masks", str(masks), "--no-latency", "--force"]
    refused = CliRunner().invoke(main, same)
    assert refused.exit_code == 2 and "what is read is never written" in refused.output
    np.savez(masks, x=ROWS["x"])
    assert "not a file of masks" in CliRunner().invoke(main, [*command, "--force"]).output
    other = CliRunner().invoke(
        main, [str(model), str(out), "--masks", str(tmp_path / "m.npz"), "--force", "--no-latency"]
    )
    assert other.exit_code == 2 and "ask for some" in other.output


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"w9": np.ones((8, 4, 3, 3))}, "is no weight"),
        ({"w1": np.ones((4, 8, 3, 3))}, "is of shape"),
        (None, "not an .npz"),
    ],
    ids=["name", "shape", "file"],
)
def test_masks_that_do_not_fit(net: ModelProto, tmp_path: Path, arrays: dict | None, match: str) -> None:
    path = tmp_path / "masks.npz"
    path.write_bytes(b"no zip")
    if arrays is not None:
        np.savez(path, **arrays)
    with pytest.raises(DataError, match=match):
        onnxprune.prune(net, sparsity=str(path), **FAST)


def test_masks_that_are_not_there(net: ModelProto, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file of masks"):
        onnxprune.prune(net, sparsity=str(tmp_path / "masks.npz"), **FAST)


def test_recovery_keeps_zeros(net: ModelProto) -> None:
    found = onnxprune.prune(net, sparsity="0.6", calibration=ROWS, recover=8, learning_rate=1e-3, **FAST)
    for array in weights(found.model).values():
        assert (array == 0).mean() >= 0.58


def test_layers_that_do_not_fit_say_so(net: ModelProto) -> None:
    narrow = network("w1 = %6x3x3x3; c = Conv(x, w1); r = Relu(c); w2 = %8x6x1x1; y = Conv(r, w2)")
    with pytest.raises(TargetError, match="no layer"):
        onnxprune.prune(narrow, sparsity="2:4", **FAST)
    found = onnxprune.prune(narrow, sparsity="1:2", **FAST)
    rows = {row["name"]: row for row in found.report["zeros"]}
    assert rows["w2"]["zeros"] == 24 and "no multiple of 2" in rows["w1"]["reason"]


OTHERS = {
    "a transposed convolution": ("w = %4x8x2x2; y = ConvTranspose<strides=[2,2]>(x, w)", "float[N,4,6,6] x"),
    "a recurrent layer": ("w = %1x16x3; w2 = %1x16x4; y, h = LSTM<hidden_size=4>(x, w, w2)", "float[5,2,3] x"),
    "a sum of products": ('w = %3x4x8; y = Einsum<equation="bti,hij->bthj">(x, w)', "float[2,5,4] x"),
}


@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_layers_that_are_not_refitted_lose_weights_by_size(case: str) -> None:
    text, x = OTHERS[case]
    model = network(text, x)
    found = onnxprune.prune(model, sparsity="0.5", **FAST)
    for name, array in weights(found.model).items():
        old = weights(model)[name]
        assert (array == 0).mean() == 0.5 and np.abs(old[array == 0]).max() <= np.abs(array[array != 0]).min()


def test_zeros_behind_another_kind_lift_none_of_its_limits(net: ModelProto) -> None:
    with pytest.raises(UsageError, match=r"ratio 0\.5 does not go with lossless"):
        onnxprune.prune(net, lossless=True, ratio=0.5, sparsity="0.5", **FAST)


def test_a_wrong_cut_is_refuted(net: ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were anything but the named weights to change, the proof would see it."""
    from onnxprune.changes.zeros.layers import WeightLayer

    whole = WeightLayer.emptied
    monkeypatch.setattr(WeightLayer, "emptied", lambda self, mask, like: whole(self, mask, like) * 1.01)
    with pytest.raises(TargetError, match="cutting it is not exact"):
        onnxprune.prune(net, sparsity="0.5", **FAST)


def test_outputs_are_those_of_the_masked_network(net: ModelProto) -> None:
    found = onnxprune.prune(net, sparsity="0.5", **FAST)
    inputs = {"x": ROWS["x"][:4]}
    again = ModelProto()
    again.CopyFrom(net)
    for tensor in again.graph.initializer:
        if tensor.name in weights(net):
            kept = weights(found.model)[tensor.name] != 0
            tensor.CopyFrom(
                numpy_helper.from_array(np.where(kept, weights(net)[tensor.name], 0).astype(np.float32), tensor.name)
            )
    np.testing.assert_array_equal(run(found.model, inputs)["y"], run(again, inputs)["y"])
