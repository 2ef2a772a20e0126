"""Pruning in the eigenbasis: the basis by hand, factors that compute what the layer did, which directions go, whole runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, helper, numpy_helper
from support.networks import feeds, network
from support.oracles import LEVELS, analysed

import onnxprune
from onnxprune.allocate import Costs, parse_ratio, parse_target
from onnxprune.allocate import Options as Widths
from onnxprune.changes.ranks import (
    Cut,
    Eigenbasis,
    Layer,
    Rules,
    choose_cuts,
    cut_to,
    eigenbases,
    factored_totals,
    find_layers,
    form_limits,
    full_cut,
    projected,
    space,
    with_factors,
)
from onnxprune.changes.ranks.costs import FORMS, cost, forms
from onnxprune.changes.ranks.eigen import rotated
from onnxprune.data import input_specs, open_dataset
from onnxprune.errors import DataError, PlanError, TargetError, UsageError
from onnxprune.model import read
from onnxprune.model.model import Model
from onnxprune.proof.check import Prover, SurgeryCheck
from onnxprune.proof.witnesses import of_change
from onnxprune.repair import Subspace
from onnxprune.repair.moments import CrossMoments, solve

MODELS = Path(__file__).parents[2] / "models"
CNN, TRANSFORMER = MODELS / "digits_cnn.onnx", MODELS / "digits_transformer.onnx"
CALIB, TEST = MODELS / "digits_calib.npz", MODELS / "digits_test.npz"

IMAGE = "float[2,6,9,9] x"
# name -> (body, input); the layer is the node that makes y or c
NETS: dict[str, tuple[str, str]] = {
    "bias": ("w = %8x6x3x3; b = %8; y = Conv<pads=[1,1,1,1]>(x, w, b)", IMAGE),
    "no bias": ("w = %8x6x3x3; c = Conv(x, w); y = Relu(c)", IMAGE),
    "stride": ("w = %8x6x3x3; b = %8; y = Conv<strides=[2,3], pads=[1,0,2,1]>(x, w, b)", IMAGE),
    "dilation": ("w = %8x6x3x2; y = Conv<dilations=[2,1], pads=[2,0,1,1]>(x, w)", IMAGE),
    "same": ('w = %8x6x3x2; y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)', IMAGE),
    "line": ("w = %8x6x5; b = %8; y = Conv<pads=[2,2]>(x, w, b)", "float[2,6,9] x"),
    "volume": ("w = %4x3x2x2x2; y = Conv(x, w)", "float[1,3,4,4,4] x"),
    "point": ("w = %8x6x1x1; b = %8; y = Conv<strides=[2,2]>(x, w, b)", IMAGE),
    "constant": ("w = Constant<value = float[2,3,1,2] {1., 2., 3., 4., 5., 6., 7., 8., 9., 1., 0., 3.}>()\n"
                 "y = Conv(x, w)", "float[2,3,5,5] x"),
    "gemm": ("w = %6x8; b = %8; y = Gemm<alpha=0.5, beta=2.0>(x, w, b)", "float[5,6] x"),
    "gemm turned": ("w = %8x6; b = %8; y = Gemm<alpha=2.0, transB=1>(x, w, b)", "float[5,6] x"),
    "matmul": ("w = %6x8; b = %8; p = MatMul(x, w); y = Add(p, b)", "float[2,5,6] x"),
    "half": ("w = %8x6x3x3:float16; y = Conv(x, w)", "float16[2,6,5,5] x"),
    "double": ("w = %6x8:double; y = MatMul(x, w)", "double[5,6] x"),
    "free": ("w = %8x6x3x3; b = %8; y = Conv<pads=[1,1,1,1]>(x, w, b)", "float[n,6,h,9] x"),
}  # fmt: skip
WITHOUT_WINDOW = {"point", "gemm", "gemm turned", "matmul", "double"}
OF_KERNELS = [form for form in FORMS if form != "rows"]
OF_CHANNELS = [form for form in OF_KERNELS if not FORMS[form].splits]
CASES = [(name, form) for name in NETS for form in (["out"] if name in WITHOUT_WINDOW else OF_CHANNELS)]


def basis_of(layer: Layer, model: ModelProto, seed: int = 0) -> Eigenbasis:
    """Any basis: what is exact is exact in every one."""
    random = np.random.default_rng(seed)
    moments = [(m := random.standard_normal((n, 2 * n))) @ m.T / n for n in (layer.inputs, layer.outputs)]
    return rotated(layer, analysed(model).facts.content(layer.name), *moments, 4.0)


def made(name: str, ir_version: int = 10) -> tuple[ModelProto, object, Layer]:
    body, inputs = NETS[name]
    kind = inputs.split("[")[0]
    model = network(body, inputs, f"{kind}[] y" if "[n" not in inputs else f"{kind}[n,8,h,9] y", ir_version=ir_version)
    analysis = analysed(model)
    (layer,) = find_layers(analysis).found
    return model, analysis, layer


def compared(analysis, cuts: list[Cut], small: Model) -> SurgeryCheck:
    """What the proof says of factors."""
    reference, witnesses = projected(analysis.facts, cuts), of_change(analysis.facts, small)
    return Prover(analysis.facts).compare(reference, small, witnesses)


def run(model: ModelProto, inputs: dict[str, np.ndarray], level: object = LEVELS[0]) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    opened = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return opened.run(None, inputs)[0]


def agree(have: np.ndarray, want: np.ndarray) -> None:
    digits = {np.dtype(np.float16): 2e-2, np.dtype(np.float64): 1e-12}.get(want.dtype, 1e-5)
    assert np.abs(have - want).max() <= digits * np.abs(want).max()


# --- the basis ------------------------------------------------------------------------------------------------------


def test_damage_by_hand() -> None:
    """Where A and S are diagonal, so is the basis: entry (s, a) costs T S_s A_a W_sa^2 / 2."""
    _, _, layer = made("gemm turned")
    weight = np.arange(48.0).reshape(8, 6) / 2  # alpha doubles it
    inputs, outputs = np.arange(1.0, 7.0), np.arange(8.0, 0.0, -1.0)
    basis = rotated(layer, weight, np.diag(inputs), np.diag(outputs), 3.0)
    expected = 1.5 * outputs[:, None] * inputs * np.arange(48.0).reshape(8, 6) ** 2
    rows, columns = np.argsort(-expected.sum(1)), np.argsort(-expected.sum(0))
    np.testing.assert_allclose(basis.damage, expected[np.ix_(rows, columns)])
    np.testing.assert_allclose(np.abs(basis.inputs), np.eye(6)[:, columns])
    lost = basis.lost()
    assert lost[0, 0] == pytest.approx(expected.sum()) and lost[-1, -1] == pytest.approx(0, abs=1e-9)
    assert lost[1, 6] == pytest.approx(expected.sum() - expected[rows[0]].sum())


def test_total_damage_is_the_loss_of_all_outputs() -> None:
    """Summed over all directions it is T tr(S W A W^T) / 2, whatever the basis."""
    _, analysis, layer = made("bias")
    random = np.random.default_rng(1)
    a, s = (random.standard_normal((n, n)) for n in (6, 8))
    a, s = a @ a.T, s @ s.T
    weight = analysis.facts.content("w")
    whole = sum(np.trace(s @ weight[:, :, i, j] @ a @ weight[:, :, i, j].T) for i in range(3) for j in range(3))
    assert rotated(layer, weight, a, s, 2.0).damage.sum() == pytest.approx(whole)


# --- factors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "form"), CASES)
def test_all_directions_are_the_layer(name: str, form: str) -> None:
    model, analysis, layer = made(name)
    cuts = [full_cut(basis_of(layer, model), form)]
    small = with_factors(projected(analysis.facts, cuts), cuts)
    read.check_structure(small, "the factors", full=True)
    inputs = feeds(model, free=9)
    for level in LEVELS:
        agree(run(small.proto, inputs, level), run(model, inputs))
    assert compared(analysis, cuts, small).exact
    small = small.structure
    assert small.opset_import == model.opset_import
    assert len(small.graph.node) == len(model.graph.node) + FORMS[form].before + FORMS[form].after
    names = Counter([*(n.name for n in small.graph.node if n.name), *(o for n in small.graph.node for o in n.output)])
    assert max(names.values()) == 1
    assert {o for n in model.graph.node for o in n.output} <= {o for n in small.graph.node for o in n.output}


@pytest.mark.parametrize(("name", "form"), CASES)
def test_removed_directions_are_silenced_ones(name: str, form: str) -> None:
    """The oracle shares no code: the weight is projected here, on the stored layout."""
    model, analysis, layer = made(name)
    basis = basis_of(layer, model)
    cut = Cut(basis, form, 2 if FORMS[form].before else layer.inputs, 1 if FORMS[form].after else layer.outputs)
    small = with_factors(projected(analysis.facts, [cut]), [cut])
    first, second = basis.inputs[:, : cut.inputs], basis.outputs[:, : cut.rank]
    turned = not layer.linear.window and "turned" not in name
    sides = (first @ first.T, second @ second.T) if turned else (second @ second.T, first @ first.T)
    silent = ModelProto()
    silent.CopyFrom(model)
    constants = [n.attribute[0].t for n in silent.graph.node if n.op_type == "Constant"]
    (tensor,) = constants or [t for t in silent.graph.initializer if t.name == "w"]
    old = numpy_helper.to_array(tensor)
    fresh = np.einsum("ax,by,xy...->ab...", *sides, old.astype(np.float64)).astype(old.dtype)
    tensor.CopyFrom(numpy_helper.from_array(fresh, tensor.name))
    agree(run(small.proto, feeds(model, free=9)), run(silent, feeds(model, free=9)))


@pytest.mark.parametrize("name", NETS)
def test_layers_without_a_window_become_two(name: str) -> None:
    layer = made(name)[2]
    assert forms(layer) == (
        ("out",) if name in WITHOUT_WINDOW else tuple(OF_KERNELS) if layer.between else tuple(OF_CHANNELS)
    )


def test_the_bias_is_added_last_and_the_window_stays_with_the_kernel() -> None:
    model, analysis, layer = made("stride")
    model.graph.node[0].name = "conv"
    analysis = analysed(model)
    (layer,) = find_layers(analysis).found
    cut = Cut(basis_of(layer, model), "both", 2, 3)
    first, middle, last = with_factors(projected(analysis.facts, [cut]), [cut]).structure.graph.node
    assert [node.name for node in (first, middle, last)] == ["conv/in", "conv", "conv/out"]
    assert not first.attribute and not last.attribute
    assert middle.attribute == model.graph.node[0].attribute
    assert list(last.input)[2:] == ["b"] and len(middle.input) == 2 and list(last.output) == ["y"]


def test_stored_tensors_declared_as_inputs_are_still_so() -> None:
    model, _, _ = made("bias", ir_version=3)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    analysis = analysed(model)
    (layer,) = find_layers(analysis).found
    cuts = [Cut(basis_of(layer, model), "both", 2, 3)]
    small = with_factors(projected(analysis.facts, cuts), cuts)
    onnx.checker.check_model(small.proto, full_check=True)
    assert compared(analysis, cuts, small).exact


def test_names_that_are_taken_are_not_taken_again() -> None:
    body = "w = %8x6x3x3; z = Relu(x); y = Conv(z, w)"
    model = network(body.replace("z", "y_in"), IMAGE)
    for node in model.graph.node:
        node.input[:] = [name.replace("y_in", "y/in") for name in node.input]
        node.output[:] = [name.replace("y_in", "y/in") for name in node.output]
    analysis = analysed(model)
    (layer,) = find_layers(analysis).found
    cuts = [Cut(basis_of(layer, model), "in", 2, 8)]
    small = with_factors(projected(analysis.facts, cuts), cuts)
    read.check_structure(small, "the factors", full=True)
    assert compared(analysis, cuts, small).exact


def test_layers_that_stay_say_why() -> None:
    body = """
w = %6x6x1x1; a = Conv(x, w); b = Conv(a, w)
g = %6x2x1x1; c = Conv<group=3>(b, g)
t = %6x3x1x1; y = ConvTranspose(c, t)
"""
    model = network(body, "float[2,6,3,3] x")
    found = find_layers(analysed(model))
    assert not found.found
    reasons = [reason for _, reason in found.kept]
    assert [r.split(",")[0] for r in reasons] == [
        "its weight is read by several nodes", "its weight is read by several nodes", "a grouped convolution", "no Conv",
    ]  # fmt: skip


# --- choice ---------------------------------------------------------------------------------------------------------


def test_costs_are_those_of_the_written_model() -> None:
    model, analysis, layer = made("stride")
    whole = {kind: int(value) for kind, value in Costs(analysis).totals(analysis.widths).items()}
    for form in OF_CHANNELS:
        cut = Cut(basis_of(layer, model), form, 2 if FORMS[form].before else 6, 3 if FORMS[form].after else 8)
        again = analysed(with_factors(projected(analysis.facts, [cut]), [cut]).proto)
        expected = Costs(again).totals(again.widths)
        found = factored_totals(whole, [cut.entry])
        assert (found["macs"], found["parameters"]) == (expected["macs"], expected["parameters"])


def test_a_budget_takes_the_least_damage() -> None:
    """Against all choices of one layer."""
    model, analysis, layer = made("bias")
    basis = basis_of(layer, model)
    whole = {kind: int(value) for kind, value in Costs(analysis).totals(analysis.widths).items()}
    for share in (0.9, 0.6, 0.3):
        (cut,) = choose_cuts([basis], whole, parse_target(f"macs={share}x"), Rules(Widths()))
        affordable = [
            basis.lost()[p, q]
            for form in OF_CHANNELS for p in range(1, 9) for q in range(1, 7)
            if cost(layer, form, q, p, "macs") <= share * whole["macs"]
        ]  # fmt: skip
        assert factored_totals(whole, [cut.entry])["macs"] <= share * whole["macs"]
        assert basis.lost()[cut.rank, cut.inputs] == pytest.approx(min(affordable))


def test_a_layer_is_written_only_where_that_is_cheaper() -> None:
    model, analysis, layer = made("point")
    basis = basis_of(layer, model)
    whole = {kind: int(value) for kind, value in Costs(analysis).totals(analysis.widths).items()}
    with pytest.raises(TargetError, match="no layer of this model becomes cheaper"):
        choose_cuts([basis], whole, parse_ratio(0.5), Rules(Widths()))  # 4 (6 + 8) > 6 * 8
    (cut,) = choose_cuts([basis], whole, parse_ratio(0.7), Rules(Widths()))  # 2 (6 + 8) < 6 * 8
    assert cut.entry[1:] == ("out", 6, 2)
    with pytest.raises(TargetError, match="out of reach"):
        choose_cuts([basis], whole, parse_target("macs=10%"), Rules(Widths()))


def test_numbers_of_directions_are_aligned() -> None:
    model, analysis, layer = made("bias")
    whole = {kind: int(value) for kind, value in Costs(analysis).totals(analysis.widths).items()}
    (cut,) = choose_cuts([basis_of(layer, model)], whole, parse_target("macs=70%"), Rules(Widths(round_to=4)))
    assert cut.inputs in (2, 4, 6) and cut.rank in (4, 8)  # 6 directions are less than two steps of 4


def test_inputs_in_a_subspace_cost_nothing() -> None:
    """Data that fills two of six dimensions: the other four directions go without any change of the outputs."""
    model = network(
        "w = %8x6x3x3; c = Conv(x, w); r = Relu(c); v = %4x8x1x1; y = Conv(r, v)",
        "float[n,6,6,6] x",
        "float[n,4,4,4] y",
    )
    random = np.random.default_rng(0)
    data = np.einsum("nqhw,qi->nihw", random.standard_normal((40, 2, 6, 6)), random.standard_normal((2, 6)))
    data = data.astype(np.float32)
    analysis = analysed(model)
    bases, _ = eigenbases(analysis, find_layers(analysis).found, open_dataset(data, input_specs(model)))
    lost = bases[0].lost()
    assert lost[8, 2] <= 1e-6 * lost[0, 0]
    cut = cut_to(bases[0], 2, 8)
    small = with_factors(projected(analysis.facts, [cut]), [cut])
    agree(run(small.proto, {"x": data}), run(model, {"x": data}))


def test_a_layer_whose_factors_are_wrong_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(
        "w = %16x6x3x3; c = Conv(x, w); r = Relu(c); v = %16x16x3x3; d = Conv(r, v); u = %16x16x3x3; y = Conv(d, u)",
        IMAGE,
    )
    data = np.random.default_rng(0).standard_normal((40, 6, 9, 9)).astype(np.float32)
    original = space.with_factors

    def broken(model, chosen):
        result = original(model, chosen)
        return result.replaced({n: 2 * tensor.read() for n, tensor in result.weights.items() if n.startswith("v/")})

    monkeypatch.setattr(space, "with_factors", broken)
    options = {"granularity": ("eigen",), "calibration": data, "latency": False, "repair": "none"}
    report = onnxprune.prune(model, target="macs=75%", **options).report
    assert report["surgery"]["proven"] and report["surgery"]["frozen_by_check"] == ["v"]
    status = {row["name"]: (row["status"], row["reason"]) for row in report["directions"]}
    assert status["u"] == ("pruned", None)
    assert status["v"][0] == "frozen" and "'d'" in status["v"][1]
    with pytest.raises(TargetError):
        onnxprune.prune(model, target="macs=80%", include=("v",), **options)


# --- repair ---------------------------------------------------------------------------------------------------------


def test_least_squares_inside_a_subspace_is_the_best_there() -> None:
    """Full rank: ordinary least squares on what is read. Rank one: no other weight inside is better."""
    random = np.random.default_rng(0)
    x, truth = random.standard_normal((300, 6)), random.standard_normal((4, 6))
    t = x @ truth.T + 3.0 + 0.1 * random.standard_normal((300, 4))
    rows = x[None].astype(np.float32), t[None].astype(np.float32)
    moments = CrossMoments.around(*rows)
    moments.update(*rows)
    reading = np.linalg.qr(random.standard_normal((6, 2)))[0]
    z = np.column_stack([x @ reading, np.ones(300)])
    expected = np.linalg.lstsq(z, t, rcond=None)[0]
    old = np.zeros((1, 4, 6))
    weight, bias = Subspace(reading, 4, np.eye(4)).within(solve)(moments, old, 1e-9, True)
    np.testing.assert_allclose(weight[0], (reading @ expected[:2]).T, atol=1e-4)
    np.testing.assert_allclose(bias[0], expected[2], atol=1e-4)
    weight, bias = Subspace(reading, 1, np.eye(4)).within(solve)(moments, old, 1e-9, True)
    assert np.linalg.matrix_rank(weight[0], tol=1e-8) == 1
    error = np.square(t - x @ weight[0].T - bias[0]).sum()
    for _ in range(20):
        other = weight[0] + 0.05 * np.outer(random.standard_normal(4), reading @ random.standard_normal(2))
        left, values, right = np.linalg.svd(other)
        other = values[0] * np.outer(left[:, 0], right[0])
        shift = (t - x @ other.T).mean(0)
        assert np.square(t - x @ other.T - shift).sum() >= error * (1 - 1e-6)


@pytest.mark.parametrize("rank", [1, 4])
def test_what_is_read_alone_gives_the_same_weights(rank: int) -> None:
    """Rows in the few directions that a weight may read say as much as all of them."""
    random = np.random.default_rng(0)
    x, t = (random.standard_normal((1, 200, n)).astype(np.float32) for n in (12, 4))
    limit = Subspace(np.linalg.qr(random.standard_normal((6, 2)))[0], rank, np.diag([1.0, 2.0, 3.0, 4.0]))
    reading = limit.reading(12)
    assert reading is not None and reading.shape == (12, 4)  # two taps of six channels
    old = random.standard_normal((1, 4, 12)) @ reading @ reading.T
    whole, few = CrossMoments.around(x, t), CrossMoments.around(x @ reading.astype(np.float32), t)
    whole.update(x, t)
    few.update(x @ reading.astype(np.float32), t)
    weight, bias = limit.within(solve)(whole, old, 1e-9, True)
    inner, shift = limit.on_what_is_read().within(solve)(few, old @ reading, 1e-9, True)
    np.testing.assert_allclose(inner @ reading.T, weight, atol=1e-5)
    np.testing.assert_allclose(shift, bias, atol=1e-5)


# --- whole runs -----------------------------------------------------------------------------------------------------

SETTINGS = {"granularity": ("eigen",), "latency": False, "samples": 64}


@pytest.mark.parametrize("model", [CNN, TRANSFORMER])
def test_half_of_the_macs_of_a_bundled_model(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    result = onnxprune.prune(
        model,
        calibration=CALIB,
        evaluation=TEST,
        target="macs=50%",
        repair="least-squares",
        output=out,
        **(SETTINGS | {"samples": None}),
    )
    before, after, task = (result.report[key] for key in ("before", "after", "task"))
    assert after["macs"] <= 0.5 * before["macs"] and result.report["surgery"]["exact"]
    assert task["drop"] < 0.03
    again = onnxprune.analyze(out)
    assert (
        Costs(again).totals(again.widths)["macs"] == after["macs"] * (again.facts.sizes[again.facts.graph.inputs[0]][0])
    )
    written = [row for row in result.report["directions"] if row["status"] == "pruned"]
    assert written and all(row["macs_after"] < row["macs"] for row in written)


def test_a_plan_and_the_data_give_the_same_bytes() -> None:
    result = onnxprune.prune(CNN, calibration=CALIB, ratio=0.6, repair="none", **SETTINGS)
    plan = onnxprune.plan(CNN, calibration=CALIB, ratio=0.6, repair="none", **SETTINGS)
    assert dict(plan.directions) == dict(result.plan.directions)
    again = onnxprune.apply(result.plan, CNN, calibration=CALIB, repair="none", latency=False, samples=64)
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)


def test_a_plan_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    plan = onnxprune.plan(CNN, calibration=CALIB, ratio=0.6, **SETTINGS)
    path = tmp_path / "plan.json"
    first = next(iter(plan.directions))
    path.write_text(plan.to_json().replace(f'"{first}": [', '"nothing.weight": ['))
    with pytest.raises(PlanError, match="which this model does not have"):
        onnxprune.apply(path, CNN, calibration=CALIB, latency=False, samples=64)
    path.write_text(plan.to_json().replace('"directions": {', '"directions": {"more": [0, 1],'))
    with pytest.raises(PlanError, match="at least 1"):
        onnxprune.apply(path, CNN, calibration=CALIB, latency=False, samples=64)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, DataError, "calibration data"),
        ({"criterion": "l2"}, UsageError, "criterion l2 does not go with granularity eigen"),
        ({"target": "latency=0.5x"}, UsageError, "target latency does not go with granularity eigen"),
        ({"scope": "isomorphic"}, UsageError, "scope isomorphic"),
        ({"lossless": True}, UsageError, "granularity eigen"),
        ({"include": ("nothing*",)}, UsageError, "matches no layer"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        onnxprune.prune(CNN, **(SETTINGS | settings))


def test_limits_are_what_the_cut_reads() -> None:
    model, analysis, layer = made("bias")
    cut = Cut(basis_of(layer, model), "both", 2, 3)
    found = form_limits(analysis.facts, [cut])["w"]
    np.testing.assert_array_equal(found.inputs, cut.basis.inputs[:, :2])
    assert found.rank == 3
