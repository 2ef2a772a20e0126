"""``--dynamic``: the pruned model runs first, the original where a gate asks for it; each way is its static model, batches are rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto
from support.networks import network

import onnxprune
from onnxprune.allocate import Target
from onnxprune.api import inspect
from onnxprune.changes.dynamic.budget import PassCosts, threshold_for
from onnxprune.changes.dynamic.joining import Joining, Passes
from onnxprune.changes.dynamic.layout import blocked_shortcuts
from onnxprune.changes.dynamic.predictor import GatePredictor
from onnxprune.errors import DataError, ModelError, OnnxPruneError, PlanError, TargetError, UsageError
from onnxprune.model.gated import EVERY, NO, asking_value, forced
from onnxprune.model.model import Model
from onnxprune.settings import Settings

MODELS = Path(__file__).parents[2] / "models"
CNN, CALIB, TEST = MODELS / "digits_cnn.onnx", MODELS / "digits_calib.npz", MODELS / "digits_test.npz"
STATIC = {"criterion": "l2", "repair": "none", "ratio": 0.5, "calibration": CALIB, "latency": False}
ROWS = np.load(TEST)["image"][:24]


def run(model: ModelProto | bytes | str, rows: np.ndarray, outputs: list[str] | None = None) -> list[np.ndarray]:
    content = model.SerializeToString() if isinstance(model, ModelProto) else model
    return ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(outputs, {"image": rows})


def asked(model: Model, rows: np.ndarray) -> np.ndarray:
    """Return bool[rows]: who asks for the full pass."""
    proto = model.proto
    proto.graph.output.add(name=asking_value(model))
    return run(proto, rows, [asking_value(model)])[0][:, 0]


@pytest.fixture(scope="module")
def dynamic() -> onnxprune.Result:
    return onnxprune.prune(CNN, dynamic="macs=70%", evaluation=TEST, **STATIC)


def test_each_way_is_its_static_model(dynamic: onnxprune.Result) -> None:
    """With every gate open the file is the original, with none the model that the same run writes without a gate."""
    static = onnxprune.prune(CNN, **STATIC).model
    for way, model in ((EVERY, onnx.load(CNN)), (NO, static)):
        found, expected = run(forced(dynamic.pruned, way).proto, ROWS)[0], run(model, ROWS)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert not np.allclose(run(static, ROWS)[0], run(onnx.load(CNN), ROWS)[0], atol=0.1)
    assert dynamic.report["surgery"]["exact"]


def test_a_removed_branch_runs_where_it_is_asked_for() -> None:
    settings = {"granularity": "block", "ratio": 0.9, "calibration": CALIB, "samples": 64, "latency": False}
    found = onnxprune.prune(CNN, dynamic="macs=90%", **settings)
    gone = {row["name"] for row in found.report["blocks"] if row["status"] == "removed"}
    assert gone and [step["kind"] for step in found.report["steps"]] == ["block", "dynamic"]
    static = onnxprune.apply(
        onnxprune.Plan(found.plan.model_sha256, {"granularity": ["block"]}, found.plan.steps[:1]), CNN, latency=False
    )
    assert {row["name"] for row in static.report["blocks"] if row["status"] == "removed"} == gone
    np.testing.assert_allclose(run(forced(found.pruned, NO).proto, ROWS)[0], run(static.model, ROWS)[0], atol=1e-4)
    np.testing.assert_allclose(run(forced(found.pruned, EVERY).proto, ROWS)[0], run(onnx.load(CNN), ROWS)[0], atol=1e-4)


def test_what_comes_of_a_sample_does_not_depend_on_the_batch(dynamic: onnxprune.Result) -> None:
    asks, model = asked(dynamic.pruned, ROWS), dynamic.model.SerializeToString()
    assert 0 < asks.sum() < len(asks)
    together = run(model, ROWS)[0]
    alone = np.concatenate([run(model, row[None])[0] for row in ROWS])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)
    full, fast = (run(forced(dynamic.pruned, way).proto, ROWS)[0] for way in (EVERY, NO))
    np.testing.assert_allclose(together, np.where(asks[:, None], full, fast), rtol=1e-4, atol=1e-4)


def test_a_stock_runtime_skips_the_work(dynamic: onnxprune.Result, tmp_path: Path) -> None:
    asks, content = asked(dynamic.pruned, ROWS), dynamic.model.SerializeToString()
    for wanted in (False, True):
        options = ort.SessionOptions()
        options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / f"run{wanted}")
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        session.run(None, {"image": ROWS[np.flatnonzero(asks == wanted)[0]][None]})
        events = json.loads(Path(session.end_profiling()).read_text())
        convolutions = [
            e for e in events if e.get("args", {}).get("op_name") == "Conv" and e["name"].endswith("kernel_time")
        ]
        full = [e for e in convolutions if "_full" in e["name"]]
        assert bool(full) == wanted and len(convolutions) > len(full)


def test_the_report_says_what_is_spent(dynamic: onnxprune.Result) -> None:
    report = dynamic.report
    found, macs = report["dynamic"], report["dynamic"]["macs"]
    share = asked(dynamic.pruned, np.load(TEST)["image"]).mean()
    assert found["full_share"]["measured"] == pytest.approx(share)
    assert macs["fast"] == report["steps"][0]["after"]["macs"] and macs["full"] <= macs["original"] + macs["fast"]
    assert macs["expected"] == report["after"]["macs"] == pytest.approx(0.7 * macs["original"], rel=1e-3)
    assert macs["measured_share"] == pytest.approx(
        (macs["fast"] + share * (macs["full"] - macs["fast"])) / macs["original"]
    )
    told = onnxprune.validate(CNN, dynamic.model, TEST, latency=True)
    assert told["dynamic"]["full_share"]["measured"] == pytest.approx(share)
    assert told["latency"]["rows"] > 1 and told["task"]["after"] == report["task"]["after"]
    assert inspect(dynamic.model)["groups"]


def test_a_plan_repeats_it(dynamic: onnxprune.Result) -> None:
    again = onnxprune.apply(dynamic.plan, CNN, calibration=CALIB, latency=False)
    assert again.model.SerializeToString() == dynamic.model.SerializeToString()
    with pytest.raises(PlanError, match="give the calibration data"):
        onnxprune.apply(dynamic.plan, CNN, latency=False)


def test_it_can_be_packed(dynamic: onnxprune.Result) -> None:
    packed = onnxprune.prune(CNN, dynamic="macs=70%", storage="fp16", **STATIC)
    assert packed.report["after"]["bytes"] < 0.7 * dynamic.report["after"]["bytes"]
    assert (
        packed.report["after"]["macs"]
        == packed.report["steps"][-1]["before"]["macs"]
        == dynamic.report["after"]["macs"]
    )
    np.testing.assert_allclose(
        run(forced(packed.pruned, EVERY).proto, ROWS)[0], run(onnx.load(CNN), ROWS)[0], atol=0.05
    )


def test_a_budget_of_time() -> None:
    found = onnxprune.prune(CNN, dynamic="latency=95%", **(STATIC | {"ratio": 0.8}))
    assert 0 <= found.report["dynamic"]["full_share"]["taught"] <= 1


def test_what_both_compute_alike_runs_once() -> None:
    one = Model.of(
        network("a = Conv(x, %4x3x1x1); w = %5x4x1x1; y = Conv(a, w)", "float[N,3,4,4] x", "float[N,5,4,4] y")
    )
    other = one.replaced({"w": one.weights["w"].read() + 1})
    found = Passes(other, one)
    assert {"x", "a"} <= found.alike and "w" not in found.alike and found.gated == ("y",)
    assert [node.output[0] for node in found.further] == ["y"]


def as_run(model: Model, folder: Path) -> list[NodeProto]:
    """Return the nodes that ONNX Runtime makes of a model, those of its bodies too."""
    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "seen.onnx"), 3
    ort.InferenceSession(model.proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    graphs = [onnx.load(folder / "seen.onnx").graph]
    for graph in graphs:
        graphs += [a.g for node in graph.node for a in node.attribute if a.type == AttributeProto.GRAPH]
    return [node for graph in graphs for node in graph.node]


def in_runtimes_blocks(model: Model, folder: Path) -> int:
    return sum(node.domain == "com.microsoft.nchwc" for node in as_run(model, folder))


def test_the_full_pass_is_as_quick_as_it_is_alone(tmp_path: Path) -> None:
    """Its convolutions get the runtime's blocks of channels, which it gives to no body that has to look around for weights."""
    full = Model.of(plain(body="p = Conv(x, %16x3x3x3, %16); q = Relu(p); r = Conv(q, %16x16x1x1, %16); "
                          "g = GlobalAveragePool(r); f = Flatten(g); y = Gemm<transB=1>(f, %5x16)"))  # fmt: skip
    fast = full.replaced({name: tensor.read() * 0 for name, tensor in full.weights.items()})
    into = Joining(Passes(fast, full), {"y": (TensorProto.FLOAT, 2)})
    axes = into.store("axes", np.int64([1, 2, 3]))
    file = into.guarded(into.add("Flatten", [into.add("ReduceMax", ["x", axes], "high")], "flat"), EVERY)
    expected = sum(in_runtimes_blocks(model, tmp_path) for model in (full, fast))
    assert in_runtimes_blocks(file, tmp_path) == expected


def test_sums_behind_padded_channels_are_computed_in_blocks(tmp_path: Path) -> None:
    body = (
        "a = Conv<pads=[1,1,1,1]>(x, %16x3x3x3); s = Pad(a, @[0,8,0,0,0,8,0,0]); b = Conv<pads=[1,1,1,1]>(a, %32x16x3x3); "
        "c = Add(b, s); d = Relu(c); e = Conv<pads=[1,1,1,1]>(d, %32x32x3x3); f = Add(e, d); "
        "h = GlobalAveragePool(f); k = Flatten(h); y = Gemm<transB=1>(k, %5x32)"
    )
    model = Model.of(plain(body=body))
    found = blocked_shortcuts(model, Settings())
    rows = ROWS_OF_X["x"]
    one, two = (
        ort.InferenceSession(which.proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"x": rows}
        )[0]
        for which in (model, found)
    )
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-4)
    assert len(found.structure.graph.node) == len(model.structure.graph.node) + 1
    assert blocked_shortcuts(other := Model.of(plain()), Settings()) is other
    if in_runtimes_blocks(model, tmp_path):
        sums = [[node for node in as_run(which, tmp_path) if node.op_type == "Add"] for which in (model, found)]
        assert len(sums[0]) == 2 and not sums[1]


def test_the_predictor_ranks_by_damage() -> None:
    random = np.random.default_rng(1)
    features = random.standard_normal((400, 6)).astype(np.float32)
    damage = np.exp(3 * features[:, 2].astype(np.float64))
    scores = GatePredictor.fitted(features[:300], damage[:300], 0).scores(features[300:])
    assert np.corrcoef(scores, np.log(damage[300:]))[0, 1] > 0.9
    again = GatePredictor.judged(features, damage, 0)
    assert again.shape == (400,) and np.corrcoef(again, np.log(damage))[0, 1] > 0.9


def test_shares_and_thresholds_by_hand() -> None:
    costs = PassCosts(100.0, 40.0, 80.0)
    assert costs.share(Target("macs", 0.6)) == pytest.approx(0.25) and costs.expected(0.25) == 60
    scores = np.array([1, 4, 2, 3], np.float32)
    assert threshold_for(scores, 0.25) == 3.5 and threshold_for(scores, 1.0) == EVERY
    assert (scores > threshold_for(scores, 0.0)).sum() == 0
    with pytest.raises(TargetError, match=r"takes 40\.0% of the original's macs"):
        costs.share(Target("macs", 0.4))


ROWS_OF_X = {"x": np.random.default_rng(0).standard_normal((16, 3, 4, 4)).astype(np.float32)}
PLAIN = "p = Conv(x, %8x3x1x1); q = Relu(p); g = GlobalAveragePool(q); f = Flatten(g); y = Gemm<transB=1>(f, %5x8)"


def plain(
    inputs: str = "float[N,3,4,4] x", outputs: str = "float[N,5] y", body: str = PLAIN, **more: int
) -> ModelProto:
    return network(body, inputs, outputs, **more)


@pytest.mark.parametrize(
    ("model", "settings", "error", "says"),
    [
        (plain(), {"dynamic": "75%"}, UsageError, "such as macs=75% or latency=80%"),
        (plain(), {"dynamic": "size=50%"}, UsageError, "such as macs=75%"),
        (plain(), {"dynamic": "macs=75%", "calibration": None}, DataError, "give calibration data"),
        (plain(), {"dynamic": "macs=75%", "ratio": 0, "storage": "fp16"}, UsageError, "nothing is pruned"),
        (plain(), {"dynamic": "macs=75%", "quantize": "dynamic"}, UsageError, "leave one of them out"),
        (plain(), {"dynamic": "macs=10%", "ratio": 0.3}, TargetError, "out of reach"),
        (plain(), {"dynamic": "macs=75%", "granularity": "block"}, TargetError, "no sum of this model has a branch"),
        (plain("float[4,3,4,4] x", "float[4,5] y"), {"dynamic": "macs=75%"}, ModelError, "several at a time"),
        (plain(body=PLAIN.replace("%5x8", "%5x8, %5"), opset=8, ir_version=3), {"dynamic": "macs=75%"}, ModelError, "opset 9 has first"),
        (
            plain(body=PLAIN.replace("y = ", "z = ") + "; k = ReduceMax<keepdims=0>(z); c = Greater(k, @0.5); "
            "y = If(c) <then_branch = a () => (float[N,5] t) { t = Identity(z) }, else_branch = b () => (float[N,5] e) { e = Neg(z) }>"),
            {"dynamic": "macs=75%"}, ModelError, "leave dynamic out",
        ),
        (
            plain(outputs="float[3,4,4] y", body="p = Conv(x, %8x3x1x1); q = Conv(p, %3x8x1x1); y = ReduceMean<keepdims=0>(q, @[0])"),
            {"dynamic": "macs=75%"}, ModelError, "axis of the samples",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(
    model: ModelProto, settings: dict[str, object], error: type[OnnxPruneError], says: str
) -> None:
    usual = {"calibration": ROWS_OF_X, "criterion": "l2", "repair": "none", "latency": False, "round_to": 1}
    if settings.get("granularity"):
        usual["criterion"] = "auto"
    with pytest.raises(error, match=says):
        onnxprune.prune(model, **(usual | settings))
