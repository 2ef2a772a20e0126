"""A training checkpoint sliced by a plan: the module of the new widths computes what the pruned file does, however the exporter named things."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from onnx import ModelProto, numpy_helper
from support.checkpoints import State, exported, read_state, trained, write_state

import onnxprune
from onnxprune.api import slice_checkpoint
from onnxprune.cli import main
from onnxprune.errors import DataError, PlanError, UsageError

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "models" / "digits_cnn.onnx"
ROWS = np.random.default_rng(3).standard_normal((5, 3, 6, 6)).astype(np.float32)
HALF: dict[str, Any] = {"ratio": 0.5, "round_to": 1, "repair": "none", "latency": False}


def outputs(model: ModelProto) -> np.ndarray:
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": ROWS})[0]


def sliced(folder: Path, model: ModelProto | Path, state: State, result: Any, **options: Any) -> tuple[State, dict]:
    """Slice a state by the plan of a run; return what is left of it, and the rows of the report by name."""
    weights = write_state(folder / "weights.safetensors", state, {"format": "pt"})
    place = folder / "small.safetensors"
    report = slice_checkpoint(result.plan, model, weights, place, force=True, **options)
    return read_state(place), {row["name"]: row for row in report["sliced"]} | {"report": report}


# --- the round trip -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folded", [False, True], ids=["names kept", "folded and renamed"])
def test_the_module_of_the_new_widths_is_the_pruned_file(folded: bool, tmp_path: Path) -> None:
    state = trained()
    model = exported(state, folded=folded)
    result = onnxprune.prune(model, **HALF)
    left, rows = sliced(tmp_path, model, state, result)
    assert (
        left.keys() == state.keys()
        and left["conv1.weight"].shape == (4, 3, 3, 3)
        and left["fc1.weight"].shape == (5, 3)
    )
    np.testing.assert_allclose(outputs(exported(left, folded=folded)), outputs(result.model), rtol=1e-4, atol=1e-5)
    assert rows["conv1.weight"]["how"] == ("BatchNorm folded in" if folded else "name")
    assert rows["fc1.weight"]["how"] == ("transposed" if folded else "name")
    assert rows["bn1.running_var"]["shape_after"] == [4] and rows["bn1.num_batches_tracked"]["status"] == "copied"
    assert rows["report"]["unmatched"] == [] and rows["report"]["warnings"] == []


def test_it_is_the_same_bytes_every_time_and_keeps_what_the_file_says_of_itself(tmp_path: Path) -> None:
    model, state = exported(trained(), folded=True), trained()
    result = onnxprune.prune(model, **HALF)
    sliced(tmp_path, model, state, result)
    first = (tmp_path / "small.safetensors").read_bytes()
    sliced(tmp_path, model, state, result)
    assert (tmp_path / "small.safetensors").read_bytes() == first
    head = json.loads(first[8 : 8 + int.from_bytes(first[:8], "little")])
    assert head["__metadata__"]["format"] == "pt" and len(head["__metadata__"]["onnxprune.plan_digest"]) == 64


KINDS: dict[str, dict[str, Any]] = {
    "units": HALF,
    "branches, then units": {
        "granularity": "block,heads",
        "share": {"block": 0.3},
        "target": "macs=40%",
        "repair": "none",
    },
    "zeros": {"sparsity": "0.6"},
    "2:4 in another order": {"sparsity": "2:4", "permute": True},
    "units, then zeros": {"sparsity": "0.5", "ratio": 0.25, "structured": True, "round_to": 1},
    "stored otherwise": {"storage": "fp16", "ratio": 0},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_is_that_of_the_pruned_file(kind: str, tmp_path: Path) -> None:
    """Of a file whose exporter kept the names, some with shortcuts; what a plan of several steps leaves is composed."""
    model = onnx.load(DIGITS) if kind in ("units", "branches, then units") else exported(trained(), folded=False)
    state = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == 1}
    result = onnxprune.prune(model, **{"latency": False, **KINDS[kind]})
    left, rows = sliced(tmp_path, model, state, result)
    if kind == "stored otherwise":
        assert "the ONNX file alone" in rows["report"]["warnings"][0] and left.keys() == state.keys()
        return
    wanted = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer if t.name in state}
    assert left.keys() == wanted.keys() and any(not np.array_equal(wanted[name], state[name]) for name in wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(left[name], array, err_msg=name)
    dropped = [name for name in state if name not in wanted]
    assert bool(dropped) == ("branches" in kind) and all(rows[name]["status"] == "dropped" for name in dropped)


def test_zeros_that_data_chose_need_the_masks_that_were_written(tmp_path: Path) -> None:
    state, model = trained(), exported(trained(), folded=True)
    result = onnxprune.prune(model, sparsity="0.5", calibration=ROWS, latency=False)
    with pytest.raises(PlanError, match=r"chosen by data.*--masks FILE"):
        sliced(tmp_path, model, state, result)
    result.write_masks(tmp_path / "masks.npz")
    left, rows = sliced(tmp_path, model, state, result, masks=tmp_path / "masks.npz")
    mask = result.masks["onnx::MatMul_61"].T
    np.testing.assert_array_equal(left["fc1.weight"], np.where(mask, state["fc1.weight"], 0))
    assert rows["conv1.weight"]["zeros"] == 108 and rows["bn1.weight"]["zeros"] == 0
    with pytest.raises(PlanError, match="leave --masks out"):
        sliced(tmp_path, model, state, onnxprune.prune(model, **HALF), masks=tmp_path / "masks.npz")


# --- how tensors are told -------------------------------------------------------------------------------------------


def test_states_of_an_optimiser_and_averages_are_cut_alike(tmp_path: Path) -> None:
    state, model = trained(), exported(trained(), folded=True)
    more = {f"ema.{name}": array + 1 for name, array in state.items()}
    more |= {f"{name}.exp_avg": array * 2 for name, array in state.items() if name.endswith("weight")}
    left, rows = sliced(tmp_path, model, state | more, onnxprune.prune(model, **HALF))
    np.testing.assert_array_equal(left["ema.bn1.running_mean"], left["bn1.running_mean"] + 1)
    np.testing.assert_array_equal(left["fc1.weight.exp_avg"], left["fc1.weight"] * 2)
    assert rows["ema.fc1.weight"]["how"] == "beside fc1.weight" and len(left) == len(state | more)


@pytest.mark.parametrize("begin", ["module.", "state_dict/"])
def test_names_may_begin_otherwise(begin: str, tmp_path: Path) -> None:
    state, model = trained(), exported(trained(), folded=False)
    later = {begin + name: np.abs(array) + np.float32(0.1) if array.ndim else array for name, array in state.items()}
    left, rows = sliced(tmp_path, model, later, onnxprune.prune(model, **HALF))
    assert left[f"{begin}fc1.weight"].shape == (5, 3)
    assert rows[f"{begin}fc1.weight"]["how"] == "name, other content"
    assert "told by their names alone" in rows["report"]["warnings"][0]


def test_equal_shifts_are_told_by_the_module_they_stand_in(tmp_path: Path) -> None:
    """Fresh biases are all zero, and some exporters store equal tensors once for all who read them."""
    state = trained() | {"conv1.bias": np.zeros(8, np.float32), "bn1.bias": np.zeros(8, np.float32)}
    state |= {"fc1.weight": trained(1)["fc1.weight"][:8], "fc1.bias": np.zeros(8, np.float32)}
    state |= {"fc2.weight": trained(1)["fc2.weight"][:, :8]}
    model = exported(state, folded=False)
    shared = ("conv1.bias", "bn1.bias", "fc1.bias")
    for node in model.graph.node:
        node.input[:] = ["zero" if name in shared else name for name in node.input]
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in shared]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, numpy_helper.from_array(np.zeros(8, np.float32), "zero")])
    result = onnxprune.prune(model, **HALF | {"layer_ratio": {"fc1.weight": 0.25}})
    left, rows = sliced(tmp_path, model, state, result)
    assert left["fc1.bias"].shape == (6,) and left["bn1.bias"].shape == left["conv1.bias"].shape == (4,)
    assert rows["fc1.bias"]["how"] == "equal, by its module"
    np.testing.assert_allclose(outputs(exported(left, folded=False)), outputs(result.model), rtol=1e-4, atol=1e-5)


def test_a_weight_of_a_given_length_is_told_with_its_length(tmp_path: Path) -> None:
    state, rng = trained(), np.random.default_rng(5)
    model = exported(state, folded=True)
    whole = state.pop("fc1.weight")
    direction = whole * rng.uniform(0.5, 2, (10, 1)).astype(np.float32)
    length = np.linalg.norm(whole, axis=1, keepdims=True)
    state |= {"fc1.parametrizations.weight.original0": length, "fc1.parametrizations.weight.original1": direction}
    left, rows = sliced(tmp_path, model, state, onnxprune.prune(model, **HALF))
    assert rows["fc1.parametrizations.weight.original1"]["how"] == "scaled to its length"
    assert left["fc1.parametrizations.weight.original0"].shape == (5, 1)
    assert left["fc1.parametrizations.weight.original1"].shape == (5, 3)


def test_a_square_matrix_lies_as_its_content_says(tmp_path: Path) -> None:
    state = trained() | {"fc1.weight": trained(4)["fc1.weight"][:6], "fc1.bias": trained()["fc1.bias"][:6]}
    state |= {"fc2.weight": trained()["fc2.weight"][:, :6]}
    model = exported(state, folded=False)
    turned = state | {"fc1.weight": np.ascontiguousarray(state["fc1.weight"].T)}
    result = onnxprune.prune(model, **HALF, exclude=["conv*"])
    left, rows = sliced(tmp_path, model, turned, result)
    assert rows["fc1.weight"]["how"] == "name, transposed" and left["fc1.weight"].shape == (6, 3)


@pytest.mark.parametrize("kind", ["float16", "float64"])
def test_a_checkpoint_may_have_other_floats(kind: str, tmp_path: Path) -> None:
    state = {name: array.astype(kind) if array.ndim else array for name, array in trained().items()}
    model = exported({name: array.astype(np.float32) for name, array in state.items()}, folded=True)
    left, rows = sliced(tmp_path, model, state, onnxprune.prune(model, **HALF))
    assert left["bn2.bias"].shape == (3,) and left["bn2.bias"].dtype == kind and not rows["report"]["unmatched"]


# --- what is refused ------------------------------------------------------------------------------------------------


def test_what_may_be_cut_and_is_not_told_ends_the_run_unless_told_otherwise(tmp_path: Path) -> None:
    state, model = trained(), exported(trained(), folded=True)
    state |= {"aux.weight": np.ones((3, 6), np.float32), "aux.scale": np.ones(5, np.float32)}
    result = onnxprune.prune(model, **HALF)
    with pytest.raises(
        DataError, match=r"1 tensors may have to be cut.*aux\.weight \[3, 6\].*axes of 6 positions.*--untold copy"
    ):
        sliced(tmp_path, model, state, result)
    assert not (tmp_path / "small.safetensors").exists()
    left, rows = sliced(tmp_path, model, state, result, untold="copy")
    assert left["aux.weight"].shape == (3, 6) and "1 tensors were copied" in rows["report"]["warnings"][0]
    left, rows = sliced(tmp_path, model, state, result, untold="drop")
    assert "aux.weight" not in left and left["aux.scale"].shape == (5,)
    with pytest.raises(UsageError, match="unknown untold 'keep'"):
        sliced(tmp_path, model, state, result, untold="keep")


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    model = exported(trained(), folded=True)
    other = {"a.weight": np.ones((3, 4), np.float32)}
    with pytest.raises(DataError, match="none of its 1 tensors"):
        sliced(tmp_path, model, other, onnxprune.prune(model, **HALF))
    with pytest.raises(DataError, match=r"Of the model these are cut.*onnx::Conv_41"):
        sliced(tmp_path, model, trained(9) | {"fc2.bias": trained()["fc2.bias"]}, onnxprune.prune(model, **HALF))


def test_a_plan_that_makes_other_weights_is_refused(tmp_path: Path) -> None:
    model = exported(trained(), folded=True)
    result = onnxprune.prune(model, granularity="eigen", target="macs=90%", calibration=ROWS, latency=False)
    with pytest.raises(PlanError, match="no slice of a checkpoint"):
        sliced(tmp_path, model, trained(), result)


def head(entries: object, rest: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + rest


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BROKEN = {
    "PK\x03\x04 and so on, as torch writes it": b"PK\x03\x04and so on, as torch writes it",
    "does not begin with": b"\xff" * 40,
    "no JSON object": head(b"[1, 2"),
    "there twice": head(b'{"a": 1, "a": 2}'),
    "has no dtype": head({"a": 3}),
    "type 'F4'": head({"a": TENSOR | {"dtype": "F4"}}, b"\0" * 8),
    "has 8 bytes": head({"a": TENSOR | {"shape": [3]}}, b"\0" * 8),
    "and the offsets": head({"a": TENSOR | {"data_offsets": [0, -8]}}, b"\0" * 8),
    "does not begin where": head({"a": TENSOR, "b": TENSOR}, b"\0" * 8),
    "end at byte": head({"a": TENSOR}, b"\0" * 9),
    "something else than texts": head({"__metadata__": {"a": 1}}),
}


@pytest.mark.parametrize("words", BROKEN)
def test_a_file_that_is_none_is_refused_with_a_reason(words: str, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(BROKEN[words])
    model = exported(trained(), folded=True)
    plan = onnxprune.plan(model, ratio=0.5)
    said = "never opened; save the checkpoint with safetensors" if words.startswith("PK") else words
    with pytest.raises(DataError, match=said):
        slice_checkpoint(plan, model, weights, tmp_path / "small.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_says_what_was_told_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(exported(trained(), folded=True), "net.onnx")
    write_state(tmp_path / "w.safetensors", trained())

    def run(text: str) -> Any:
        return CliRunner().invoke(main, text.split())

    assert run("net.onnx small.onnx --plan plan.json --no-latency").exit_code == 0
    done = run(
        "checkpoint plan.json net.onnx w.safetensors -o small.safetensors --json report.json --markdown report.md"
    )
    assert done.exit_code == 0 and "17 tensors: " in done.output and "BatchNorm" in done.output
    assert json.loads(Path("report.json").read_text())["sliced"][0]["name"] == "bn1.bias"
    assert "Tensors of the checkpoint" in Path("report.md").read_text()
    for wrong, code, words in (
        ("-o small.safetensors", 2, "add --force"),
        ("-o w.safetensors --force", 2, "the checkpoint that is sliced"),
        ("-o small.onnx --force", 2, "no safetensors file; delete it"),
        ("", 2, "--output is missing"),
    ):
        refused = run(f"checkpoint plan.json net.onnx w.safetensors {wrong}")
        assert refused.exit_code == code and words in refused.output, wrong
    assert run("checkpoint plan.json net.onnx missing.safetensors -o b.safetensors").exit_code == 3
    assert run("checkpoint plan.json small.onnx w.safetensors -o b.safetensors").exit_code == 3
