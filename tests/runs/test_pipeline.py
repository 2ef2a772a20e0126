"""From a model to a smaller one through the public functions: determinism, replay, the check, gates, odd models."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.networks import network
from threadpoolctl import ThreadpoolController, threadpool_limits

import onnxprune
from onnxprune.changes import proven
from onnxprune.changes.units import space
from onnxprune.errors import Inconclusive, PlanError, SurgeryError, TargetError, UsageError
from onnxprune.measure.latency import Latency, LatencyReport
from onnxprune.model import read
from onnxprune.proof.check import SurgeryCheck
from onnxprune.report.stages import Stages
from onnxprune.runs import run as running

MODELS = Path(__file__).parents[2] / "models"
CNN, TRANSFORMER, TEST = MODELS / "digits_cnn.onnx", MODELS / "digits_transformer.onnx", MODELS / "digits_test.npz"
TWO_GROUPS = """
w1 = %8x3x1x1; b1 = %8; p = Conv(x, w1, b1); r = Relu(p)
w2 = %6x8x1x1; q = Conv(r, w2); s = Relu(q); w3 = %5x6x1x1; y = Conv(s, w3)
"""


def prune(model, **settings):
    return onnxprune.prune(model, **({"latency": False, "round_to": 1} | settings))


def run(model: ModelProto | Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, feeds)


@pytest.mark.parametrize("path", [CNN, TRANSFORMER], ids=lambda path: path.stem)
def test_bundled_models_are_pruned_exactly(path: Path) -> None:
    report = prune(path, ratio=0.5, evaluation=TEST).report
    assert report["surgery"]["exact"]
    assert report["prunable"]["macs"] >= 0.99
    assert report["after"]["parameters"] < 0.55 * report["before"]["parameters"]
    assert report["task"]["before"] > 0.98
    assert report["drift"]["samples"] == 497


def test_two_runs_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        prune(CNN, output=tmp_path / name, criterion="fpgm", scope="global")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_the_file_is_the_model_that_was_returned_and_says_where_it_came_from(tmp_path: Path) -> None:
    result = prune(CNN, output=tmp_path / "a.onnx")
    saved = onnx.load(tmp_path / "a.onnx")
    assert saved == result.model
    entries = {entry.key: entry.value for entry in saved.metadata_props}
    assert entries["onnxprune.source_sha256"] == read.load(CNN).sha256 == result.report["model"]["sha256"]
    asked = {entries[f"onnxprune.{key}"] for key in ("changes", "target", "criterion")}
    assert asked == {"units", "ratio=0.5", "auto"}
    assert not any(str(tmp_path) in value for value in entries.values())
    assert read.load(tmp_path / "a.onnx").sha256 == result.report["output"]["sha256"]
    assert result.report["after"]["bytes"] == (tmp_path / "a.onnx").stat().st_size


def test_replaying_a_plan_gives_equal_bytes(tmp_path: Path) -> None:
    result = prune(TRANSFORMER, output=tmp_path / "a.onnx", granularity=("width",), ratio=0.3)
    (tmp_path / "plan.json").write_text(result.plan.to_json())
    onnxprune.apply(tmp_path / "plan.json", TRANSFORMER, output=tmp_path / "b.onnx", latency=False)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    with pytest.raises(PlanError, match="SHA-256"):
        onnxprune.apply(tmp_path / "plan.json", CNN, latency=False)


def test_pruning_again_replaces_the_signature(tmp_path: Path) -> None:
    once = prune(CNN, ratio=0.25).model
    twice = prune(once, ratio=0.25).model
    keys = [entry.key for entry in twice.metadata_props]
    assert len(keys) == len(set(keys))
    assert twice.ByteSize() < once.ByteSize()


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(CNN.read_bytes())
    assert prune(tmp_path / "net.onnx").report["output"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_plan_decides_without_cutting() -> None:
    analysis = onnxprune.analyze(CNN)
    plan = onnxprune.plan(analysis, ratio=0.5, round_to=1)
    assert plan == onnxprune.plan(CNN, ratio=0.5, round_to=1)
    assert sum(len(group.kept) for group in plan.groups) == pytest.approx(
        0.5 * analysis.widths.sum(), abs=len(plan.groups)
    )


@pytest.mark.parametrize(("target", "key", "share"), [("macs=50%", "macs", 0.5), ("params=0.4x", "parameters", 0.4)])
def test_targets_are_met(target: str, key: str, share: float) -> None:
    report = prune(CNN, target=target).report
    assert 0.85 * share < report["after"][key] / report["before"][key] <= share


def test_an_absolute_target_of_macs_means_one_sample() -> None:
    assert 2_600_000 < prune(CNN, target="macs=3M").report["after"]["macs"] <= 3_000_000


# --- the surgery check ----------------------------------------------------------------------------------------------


def blaming(group: int, honest):
    """A check that finds fault whenever ``group`` is cut: stands for a rule that is wrong on some model."""

    def check(analysis, kept, small, **options):
        found = honest(analysis, kept, small, **options)
        return found if kept[group].all() else SurgeryCheck(False, 1.0, 1.0, found.tolerance, problem="made up")

    return check


def test_a_group_that_cannot_be_cut_exactly_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "check_cut", blaming(1, space.check_cut))
    report = prune(network(TWO_GROUPS)).report
    assert report["surgery"]["exact"]
    assert report["surgery"]["frozen_by_check"] == ["w2"]
    assert [(g["name"], g["status"], g["width_after"]) for g in report["groups"]] == [
        ("w1", "pruned", 4),
        ("w2", "frozen", 6),
    ]


def test_what_the_check_froze_is_named_and_not_prunable(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prune(network(TWO_GROUPS)).report
    monkeypatch.setattr(space, "check_cut", blaming(1, space.check_cut))
    report = prune(network(TWO_GROUPS)).report
    frozen = [row for row in report["frozen"] if row["kind"] == "check"]
    assert {row["axis"] for row in frozen} == {f"{m['parameter']}[{m['axis']}]" for m in report["groups"][1]["members"]}
    assert all("made up" in row["reason"] and row["node"] is None and row["remedy"] for row in frozen)
    assert report["prunable"]["macs"] < whole["prunable"]["macs"]


def test_what_the_check_froze_is_made_up_for_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups frozen after the choice lead to a new choice: the target is met, or refused (exit 4)."""
    monkeypatch.setattr(space, "check_cut", blaming(1, space.check_cut))
    model = network(TWO_GROUPS)
    report = prune(model, target="macs=75%", round_to=1).report
    assert report["after"]["macs"] <= 0.75 * report["before"]["macs"]
    assert report["surgery"]["frozen_by_check"] == ["w2"]
    with pytest.raises(TargetError, match="out of reach"):
        prune(model, target="macs=20%", round_to=1)


def test_nothing_is_written_when_no_cut_is_exact(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrong = SurgeryCheck(False, 1.0, 1.0, 0.0, problem="made up")
    monkeypatch.setattr(space, "check_cut", lambda *_, **__: wrong)
    with pytest.raises(TargetError, match=r"no group .*made up"):
        prune(network(TWO_GROUPS), output=tmp_path / "a.onnx")
    monkeypatch.setattr(proven, "bisect", lambda *_: [])
    with pytest.raises(SurgeryError, match="made up"):
        prune(network(TWO_GROUPS), output=tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


# --- gates ----------------------------------------------------------------------------------------------------------


def test_a_failed_gate_writes_nothing(tmp_path: Path) -> None:
    result = prune(CNN, output=tmp_path / "a.onnx", evaluation=TEST, max_drop=0.01)
    assert not result.passed
    assert result.report["exit_code"] == 1
    (gate,) = result.report["gates"]
    assert gate == {"name": "max_drop", "limit": 0.01, "value": result.report["task"]["drop"], "passed": False}
    assert not list(tmp_path.iterdir())


def test_gates_that_pass(tmp_path: Path) -> None:
    limits = {"max_drop": 0.99, "min_agreement": 0.01, "min_cosine": -1.0, "max_size": 10**6}
    result = prune(CNN, output=tmp_path / "a.onnx", evaluation=TEST, ratio=0.1, **limits)
    assert result.passed
    assert {gate["name"] for gate in result.report["gates"]} == set(limits)
    assert (tmp_path / "a.onnx").is_file()


def test_a_noisy_latency_fails_strictly(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = LatencyReport(Latency(1, 2, 9, 9, 1, 50), Latency(1, 2, 9, 9, 1, 50))
    monkeypatch.setattr(running, "measure_latency", lambda *_: noisy)
    settings = {"latency": True, "max_latency_ratio": 1.5}
    assert any("inconclusive" in text for text in prune(network(TWO_GROUPS), **settings).report["warnings"])
    with pytest.raises(Inconclusive, match="busy"):
        prune(network(TWO_GROUPS), strict=True, **settings)


def test_settings_have_near_names() -> None:
    with pytest.raises(UsageError, match="'criterion'"):
        prune(CNN, criterium="l2")


# --- odd models -----------------------------------------------------------------------------------------------------


def test_float16_weights() -> None:
    model = network(
        "w1 = %8x3x1x1:float16; p = Conv(x, w1); r = Relu(p); w2 = %5x8x1x1:float16; y = Conv(r, w2)",
        "float16[2,3,4,4] x",
        "float16[] y",
    )
    result = prune(model)
    assert result.report["before"]["weight_bytes"] == 2 * (24 + 40)
    assert {tensor.data_type for tensor in result.model.graph.initializer} == {TensorProto.FLOAT16}


def test_several_outputs_keep_names_and_shapes() -> None:
    model = network(
        "w1 = %8x3x1x1; p = Conv(x, w1); r = Relu(p); w2 = %5x8x1x1; y = Conv(r, w2); w3 = %2x8x1x1; z = Conv(r, w3)",
        outputs="float[] y, float[] z",
    )
    result = prune(model)
    assert list(result.model.graph.output) == list(model.graph.output)
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    assert [y.shape for y in run(result.model, {"x": x})] == [(2, 5, 4, 4), (2, 2, 4, 4)]


def test_initializers_that_are_inputs() -> None:
    model = network(TWO_GROUPS, opset=8, ir_version=3)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    small = prune(model).model
    assert small.ir_version == 3
    stored = {tensor.name: list(tensor.dims) for tensor in small.graph.initializer}
    declared = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in small.graph.input}
    assert {name: declared[name] for name in stored} == stored
    assert stored["w1"] == [4, 3, 1, 1]


def external_copy(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "net.onnx"
    path.parent.mkdir()
    onnx.save(onnx.load(CNN), path, save_as_external_data=True, location="weights.bin", size_threshold=64)
    return path


def test_external_data_stays_external_and_moves_along(tmp_path: Path) -> None:
    path = external_copy(tmp_path)
    out = tmp_path / "out" / "small.onnx"
    out.parent.mkdir()
    result = prune(path, output=out)
    (data,) = (p for p in out.parent.iterdir() if p != out)
    assert data.name == f"small.onnx.{sha256(data.read_bytes()).hexdigest()[:12]}.data"
    total = sum(p.stat().st_size for p in out.parent.iterdir())
    assert result.report["after"]["bytes"] == total
    assert read.load(out).sha256 == result.report["output"]["sha256"]
    image = np.random.default_rng(0).random((3, 1, 8, 8)).astype(np.float32)
    (want,), (have,) = run(prune(CNN).model, {"image": image}), run(out, {"image": image})
    np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)


def test_untouched_external_tensors_are_copied(tmp_path: Path) -> None:
    """A group that is kept whole keeps its tensors, which then still lie in the original's file."""
    path = external_copy(tmp_path)
    onnxprune.save(read.load(path), tmp_path / "copy.onnx")
    want = {t.name: numpy_helper.to_array(t) for t in onnx.load(CNN).graph.initializer}
    have = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "copy.onnx").graph.initializer}
    assert want.keys() == have.keys()
    assert all(np.array_equal(want[name], have[name]) for name in want)


# --- the report -----------------------------------------------------------------------------------------------------


def test_report_has_the_documented_keys() -> None:
    report = prune(CNN, evaluation=TEST).report
    documented = (
        "schema_version tool command exit_code settings model output before after prunable groups frozen",
        "surgery drift task latency gates seconds peak_rss_bytes",
    )
    assert set(" ".join(documented).split()) <= set(report)
    assert set(report["before"]) == {"parameters", "macs", "bytes", "weight_bytes", "channels"}
    group_keys = "name width_before width_after status reason node parameters macs members"
    assert set(group_keys.split()) <= set(report["groups"][0])
    frozen_keys = "axis node op reason macs parameters remedy"
    assert set(frozen_keys.split()) <= set(report["frozen"][0])
    assert report["settings"]["criterion"] == "auto"
    assert report["settings"]["seed"] == 0
    assert report["peak_rss_bytes"] > 10**7
    json.dumps(report, allow_nan=False)


def test_costs_by_hand() -> None:
    """8x3 and 5x8 weights on 4x4 maps, half of the 8 channels go."""
    model = network("w1 = %8x3x1x1; p = Conv(x, w1); r = Relu(p); w2 = %5x8x1x1; y = Conv(r, w2)", "float[1,3,4,4] x")
    report = prune(model).report
    before, after = report["before"], report["after"]
    assert (before["parameters"], before["macs"], before["channels"]) == (64, 64 * 16, 8)
    assert (after["parameters"], after["macs"], after["channels"]) == (32, 32 * 16, 4)
    (group,) = report["groups"]
    assert (group["parameters"], group["macs"]) == (64, 64 * 16)
    frozen = {row["axis"]: (row["macs"], row["parameters"]) for row in report["frozen"]}
    assert frozen == {"w1[1]": (24 * 16, 24), "w2[0]": (40 * 16, 40)}


def test_macs_are_those_of_one_sample() -> None:
    fixed, free = (
        prune(network("w1 = %3x8; p = MatMul(x, w1); w2 = %8x5; y = MatMul(p, w2)", f"float[{batch},3] x")).report
        for batch in ("1", "N")
    )
    assert fixed["before"]["macs"] == free["before"]["macs"] == 24 + 40


def test_calibration_data_repairs_what_is_left() -> None:
    """Least squares brings back most of what deletion costs, and says how it was chosen."""
    settings = {"criterion": "l2", "ratio": 0.5, "round_to": 16, "evaluation": TEST}
    deleted = prune(CNN, **settings).report
    repaired = prune(CNN, calibration=MODELS / "digits_calib.npz", **settings).report
    assert repaired["repair"]["method"] == "least-squares"
    assert repaired["repair"]["divergence"]["least-squares"] < 0.1 * repaired["repair"]["divergence"]["none"]
    assert repaired["after"] == deleted["after"]
    assert deleted["task"]["after"] < 0.5
    assert repaired["task"]["after"] > 0.97


# --- several runs in one process ------------------------------------------------------------------------------------


def blas_threads() -> list[int]:
    return [library.num_threads for library in ThreadpoolController().select(user_api="blas").lib_controllers]


def test_runs_that_overlap_leave_blas_as_it_was() -> None:
    """The second begins while the first runs, and ends after it."""
    with threadpool_limits(2, "blas"):
        first, second = Stages()("one"), Stages()("two")
        before = blas_threads()
        first.__enter__()
        second.__enter__()
        with Stages()("inside"):
            assert set(blas_threads()) == {1}
        first.__exit__(None, None, None)
        assert set(blas_threads()) == {1}
        second.__exit__(None, None, None)
        assert blas_threads() == before
        assert set(before) == {2}
