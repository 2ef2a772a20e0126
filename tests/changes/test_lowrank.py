"""Low rank by regression: factors in every form against dense oracles, what is lost against least squares, whole runs."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from changes.test_directions import NETS, WITHOUT_WINDOW, agree, compared, made, run
from onnx import numpy_helper
from support.networks import feeds, network
from support.oracles import LEVELS, analysed

import onnxprune
from onnxprune.allocate import Costs
from onnxprune.allocate import Options as Widths
from onnxprune.changes.plan import from_json
from onnxprune.changes.ranks import (
    Cut,
    Layer,
    Regression,
    factored_totals,
    find_layers,
    full_cut,
    projected,
    regressed,
    regressions,
    with_factors,
)
from onnxprune.changes.ranks.costs import FORMS
from onnxprune.data import input_specs, open_dataset
from onnxprune.errors import DataError, PlanError, TargetError, UsageError
from onnxprune.means import Means
from onnxprune.model import read
from onnxprune.repair.moments import CrossMoments, solve

MODELS = Path(__file__).parents[2] / "models"
CNN, TRANSFORMER = MODELS / "digits_cnn.onnx", MODELS / "digits_transformer.onnx"
CALIB, TEST = MODELS / "digits_calib.npz", MODELS / "digits_test.npz"
FAST = {"calibration": CALIB, "samples": 96, "latency": False}
SQUARE = {"bias", "no bias", "stride", "dilation", "same", "half", "free"}  # kernels of two axes
CASES = [
    (name, form)
    for name in NETS
    for form in (
        ["out"]
        if name in WITHOUT_WINDOW
        else [f for f in FORMS if f != "rows" and (name in SQUARE or not FORMS[f].splits)]
    )
    if name != "constant" or form != "split"
]


def moment_of(layer: Layer, seed: int = 0) -> np.ndarray:
    size = layer.inputs * layer.taps
    root = np.random.default_rng(seed).standard_normal((size, size))
    return root @ np.diag(np.geomspace(4, 0.05, size)) @ root.T / size


def basis_of(layer: Layer, weight: np.ndarray) -> Regression:
    return regressed(layer, layer.matrix(weight), moment_of(layer), Widths())


def flat(weight: np.ndarray) -> np.ndarray:
    """[o, i, taps] with the channels of a tap side by side, as moments have them."""
    return weight.swapaxes(1, 2).reshape(len(weight), -1)


# --- factors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "form"), CASES)
def test_all_directions_are_the_layer(name: str, form: str) -> None:
    model, analysis, layer = made(name)
    cuts = [full_cut(basis_of(layer, analysis.facts.content("w")), form)]
    small = with_factors(projected(analysis.facts, cuts), cuts)
    read.check_structure(small, "the factors", full=True)
    inputs = feeds(model, free=9)
    for level in LEVELS:
        agree(run(small.proto, inputs, level), run(model, inputs))
    assert compared(analysis, cuts, small).exact
    assert len(small.structure.graph.node) == len(model.graph.node) + FORMS[form].before + FORMS[form].after
    assert small.structure.opset_import == model.opset_import


@pytest.mark.parametrize(("name", "form"), CASES)
def test_factors_compute_the_projected_layer(name: str, form: str) -> None:
    model, analysis, layer = made(name)
    cut = Cut(basis_of(layer, analysis.facts.content("w")), form, 2 if FORMS[form].before else layer.inputs, 2)
    cut = cut if FORMS[form].after else Cut(cut.basis, form, 2, layer.outputs)
    small, silent = with_factors(projected(analysis.facts, [cut]), [cut]), projected(analysis.facts, [cut])
    agree(run(small.proto, feeds(model, free=9)), run(silent.proto, feeds(model, free=9)))
    changed = (
        numpy_helper.to_array(next(t for t in silent.proto.graph.initializer if t.name == "w"))
        if name != "constant"
        else None
    )
    assert changed is None or not np.array_equal(changed, analysis.facts.content("w"))


@pytest.mark.parametrize("name", sorted(SQUARE))
def test_a_split_kernel_costs_what_the_written_model_does(name: str) -> None:
    _, analysis, layer = made(name)
    whole = Costs(analysis).totals(analysis.widths)
    for rank in (1, 5):
        cut = Cut(basis_of(layer, analysis.facts.content("w")), "split", layer.inputs, rank)
        again = analysed(with_factors(projected(analysis.facts, [cut]), [cut]).proto)
        expected = Costs(again).totals(again.widths)
        found = factored_totals({kind: int(n) for kind, n in whole.items()}, [cut.entry])
        assert (found["macs"], found["parameters"]) == (expected["macs"], expected["parameters"])


# --- what is lost ---------------------------------------------------------------------------------------------------


def test_the_rank_of_a_layer_is_its_outputs_principal_components() -> None:
    _, analysis, layer = made("bias")
    weight, moment = layer.matrix(analysis.facts.content("w")), moment_of(layer)
    basis = regressed(layer, weight, moment, Widths())
    (way,) = [way for way in basis.found if way.form == "out"]
    for place, rank in enumerate(way.ranks):
        kept = basis.projected(Cut(basis, "out", layer.inputs, int(rank)), weight)
        error = flat(weight - kept)
        assert np.trace(error @ moment @ error.T) == pytest.approx(float(way.lost[place, 0]), rel=1e-6)
        assert np.linalg.matrix_rank(flat(kept)) == rank
        random = np.random.default_rng(int(rank))
        for _ in range(20):  # no other weight of that rank loses less
            left, right = random.standard_normal((8, rank)), random.standard_normal((rank, flat(weight).shape[1]))
            left = (
                left
                if rank == 0
                else np.linalg.lstsq((right @ moment @ right.T), right @ moment @ flat(weight).T, rcond=None)[0].T
            )
            other = flat(weight) - left @ right
            assert np.trace(other @ moment @ other.T) >= float(way.lost[place, 0]) * (1 - 1e-9)


@pytest.mark.parametrize("form", ["in", "both", "split"])
def test_what_is_lost_is_what_is_left_after_a_refit(form: str) -> None:
    """Against least squares on rows with exactly that moment, inside what the repair must keep to."""
    _, analysis, layer = made("bias")
    weight, moment = layer.matrix(analysis.facts.content("w")), moment_of(layer)
    basis = regressed(layer, weight, moment, Widths())
    (way,) = [way for way in basis.found if way.form == form]
    rows = np.linalg.cholesky(moment).T * np.sqrt(len(moment))  # rows^T rows / n is the moment
    pairs = rows[None].astype(np.float32), (rows @ flat(weight).T)[None].astype(np.float32)
    moments = CrossMoments.zeros(1, rows.shape[1], layer.outputs)
    moments.update(*pairs)
    assert len(way.ranks) and len(way.inputs)
    for (a, rank), (b, inputs) in product(enumerate(way.ranks), enumerate(way.inputs)):
        cut = Cut(basis, form, int(inputs), int(rank))
        start = flat(basis.projected(cut, weight))[None]
        fitted, _ = basis.limit(cut, weight).within(solve)(moments, start, 1e-9, False)
        error = flat(weight) - fitted[0]
        assert np.trace(error @ moment @ error.T) == pytest.approx(
            float(way.lost[a, b]), rel=2e-2, abs=1e-4 * basis.whole
        )
        before = flat(weight) - start[0]
        assert np.trace(before @ moment @ before.T) >= float(way.lost[a, b]) * (1 - 1e-3)


def test_inputs_in_a_subspace_cost_nothing() -> None:
    """Data that fills two of six dimensions: a factor in front that reads these two loses nothing."""
    body = "w = %8x6x3x3; c = Conv(x, w); r = Relu(c); v = %4x8x1x1; y = Conv(r, v)"
    model = network(body, "float[n,6,6,6] x", "float[n,4,4,4] y")
    random = np.random.default_rng(0)
    data = np.einsum("nqhw,qi->nihw", random.standard_normal((40, 2, 6, 6)), random.standard_normal((2, 6)))
    data = data.astype(np.float32)
    analysis = analysed(model)
    bases, _ = regressions(analysis, find_layers(analysis).found, open_dataset(data, input_specs(model)), Widths())
    (way,) = [way for way in bases[0].found if way.form == "in"]
    two = int(np.flatnonzero(way.inputs == 2)[0])
    assert way.lost[-1, two] <= 5e-3 * bases[0].whole and way.lost[-1, two - 1] >= 1e-2 * bases[0].whole
    cut = Cut(bases[0], "in", 2, 8)
    small = with_factors(projected(analysis.facts, [cut]), [cut])
    have, want = run(small.proto, {"x": data}), run(model, {"x": data})
    assert np.abs(have - want).max() <= 1e-3 * np.abs(want).max()  # the rest of the inputs counts a little


def test_a_head_over_many_outputs_is_found_and_fitted() -> None:
    """More outputs than have a second moment of their own; inputs in a subspace, so that a low rank is enough."""
    model = network("w = %48x5000; b = %5000; p = MatMul(x, w); y = Add(p, b)", "float[n,48] x", "float[n,5000] y")
    random = np.random.default_rng(0)
    x = (random.standard_normal((96, 8)) @ random.standard_normal((8, 48))).astype(np.float32)
    result = onnxprune.prune(model, low_rank=True, target="params=40%", calibration=x, latency=False, round_to=4)
    assert (
        result.report["surgery"]["exact"]
        and result.report["after"]["parameters"] <= 0.4 * result.report["before"]["parameters"]
    )
    have, want = run(result.model, {"x": x}), run(model, {"x": x})
    assert np.abs(have - want).max() <= 1e-2 * np.abs(want).max()
    with pytest.raises(TargetError, match="no layer of this model can be written as factors"):
        onnxprune.prune(model, granularity="eigen", target="params=40%", calibration=x, latency=False)


def test_moments_are_gathered_in_parts_that_fit() -> None:
    model = network(
        "w = %8x6x3x3; c = Conv(x, w); v = %8x8x3x3; y = Conv(c, v)", "float[n,6,9,9] x", "float[n,8,5,5] y"
    )
    analysis = analysed(model)
    data = np.random.default_rng(0).standard_normal((20, 6, 9, 9)).astype(np.float32)
    dataset = open_dataset(data, input_specs(model))
    layers = find_layers(analysis).found
    one, several = (regressions(analysis, layers, dataset, Widths(), Means(memory=memory))[0] for memory in (None, 1))
    for a, b in zip(one, several, strict=True):
        assert all(np.array_equal(x.lost, y.lost) for x, y in zip(a.found, b.found, strict=True))


# --- whole runs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "share"), [(CNN, 0.5), (TRANSFORMER, 0.7)])
def test_a_bundled_model_as_factors(model: Path, share: float, tmp_path: Path) -> None:
    options = FAST | {"samples": 256, "evaluation": TEST, "low_rank": True, "target": f"macs={share}x"}
    result = onnxprune.prune(model, output=tmp_path / "small.onnx", **options)
    report = result.report
    assert report["surgery"]["exact"] and report["task"]["drop"] < 0.03
    assert report["after"]["macs"] <= share * report["before"]["macs"]
    rows = [row for row in report["ranks"] if row["status"] == "pruned"]
    assert rows and all(row["macs_after"] < row["macs"] and row["form"] in FORMS for row in rows)
    plan = from_json(result.plan.to_json())
    again = onnxprune.apply(plan, model, calibration=CALIB, samples=256, latency=False)
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)


def test_a_ratio_is_of_the_macs_of_each_layer() -> None:
    report = onnxprune.prune(CNN, low_rank=True, ratio=0.5, repair="none", **FAST).report
    rows = [row for row in report["ranks"] if row["status"] == "pruned"]
    assert rows and all(row["macs_after"] <= 0.5 * row["macs"] for row in rows)


def test_curves_of_layers_tell_what_is_left_alike_for_all_forms() -> None:
    """In outputs of a thinner layer of the same MACs: ranks of several forms do not compare."""
    found = onnxprune.api.sensitivity(CNN, CALIB, samples=48, granularity="rank")
    assert found["curves"]
    for curve in found["curves"]:
        assert all(0 < left < curve["width"] for left in curve["widths"]) and len(set(curve["widths"])) == len(
            curve["widths"]
        )


def test_a_point_convolution_is_left_unless_much_of_it_goes() -> None:
    body = "w = %64x64x1x1; c = Conv(x, w); r = Relu(c); v = %64x64x3x3; y = Conv(r, v)"
    model = network(body, "float[n,64,6,6] x", "float[n,64,4,4] y")
    data = np.random.default_rng(0).standard_normal((16, 64, 6, 6)).astype(np.float32)
    result = onnxprune.prune(model, low_rank=True, target="macs=70%", calibration=data, latency=False, repair="none")
    row = next(row for row in result.report["ranks"] if row["name"] == "w")
    assert row["status"] == "kept" or row["macs_after"] < 0.4 * row["macs"]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"calibration": None}, DataError, "takes directions from data; give calibration data"),
        ({"criterion": "l2"}, UsageError, "criterion l2 does not go with granularity rank"),
        ({"include": ("nothing*",)}, UsageError, "matches no layer"),
        ({"target": "macs=1%"}, TargetError, "out of reach"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        onnxprune.prune(CNN, **(FAST | {"low_rank": True} | settings))


def test_a_plan_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    plan = onnxprune.plan(CNN, low_rank=True, target="macs=60%", repair="none", **FAST)
    first, (form, inputs, rank) = next(iter(plan.steps[0].record["ranks"].items()))
    path = tmp_path / "plan.json"
    for wrong in (f'"{first}": ["{form}", {inputs}, 99999]', f'"{first}": ["sideways", {inputs}, {rank}]',
                  f'"nothing": ["{form}", {inputs}, {rank}]', f'"{first}": [{inputs}, {rank}]', f'"{first}": ["{form}", 0, {rank}]'):  # fmt: skip
        path.write_text(plan.to_json().replace(f'"{first}": ["{form}", {inputs}, {rank}]', wrong))
        with pytest.raises(PlanError):
            onnxprune.apply(path, CNN, calibration=CALIB, samples=96, latency=False)


def test_it_shares_a_target_with_widths() -> None:
    report = onnxprune.prune(CNN, structured=True, low_rank=True, target="macs=40%", **FAST).report
    assert [set(mix["shares"]) for mix in report["shares"]] == [{"heads", "rank"}] * len(report["shares"])
    assert report["after"]["macs"] <= 0.4 * report["before"]["macs"] and report["surgery"]["exact"]


def test_every_level_of_optimisation_gives_the_same() -> None:
    result = onnxprune.prune(CNN, low_rank=True, target="macs=60%", **FAST)
    rows = np.load(TEST)
    name = next(iter(rows))
    found = []
    for level in LEVELS:
        options = ort.SessionOptions()
        options.graph_optimization_level = level
        opened = ort.InferenceSession(result.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found.append(opened.run(None, {opened.get_inputs()[0].name: rows[name][:8]})[0])
    for one in found[1:]:
        agree(one, found[0])
