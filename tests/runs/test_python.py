"""What the Python functions take: one pipeline for plans and runs, data of every kind read once, settings of the right types."""

from __future__ import annotations

import dataclasses
import typing
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import ModelProto
from support.forms import FORMS
from support.networks import network

import onnxprune
from onnxprune import api
from onnxprune.cli import main
from onnxprune.cli.options import READING
from onnxprune.data import AudioOptions, ImageOptions, TextOptions
from onnxprune.errors import DataError, TargetError, UsageError
from onnxprune.options import (
    ApplyOptions,
    BenchOptions,
    CheckOptions,
    CurveOptions,
    InspectOptions,
    PruneOptions,
    SettingOptions,
    SweepOptions,
    ValidateOptions,
)
from onnxprune.settings import KINDS, Settings, make_settings

DENSE = "h = MatMul(x, %8x16)\na = Relu(h)\nk = MatMul(a, %16x12)\nb = Relu(k)\ny = MatMul(b, %12x4)"
ROWS = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)


def dense() -> ModelProto:
    return network(DENSE, "float[n,8] x", "float[n,4] y", opset=17, ir_version=9)


# --- one pipeline ---------------------------------------------------------------------------------------------------

DECISIONS: dict[str, dict[str, Any]] = {
    "weights": {"ratio": 0.5, "criterion": "l1"},
    "data": {"target": "macs=60%", "calibration": ROWS},
    "evidence": {"ratio": 0.4, "criterion": "wanda", "calibration": ROWS},
    "a limit": {"max_divergence": 0.5, "calibration": ROWS},
    "steps": {"target": "macs=60%", "schedule": "linear:2", "calibration": ROWS, "recover": 2},
    "rows kept for training": {"target": "macs=60%", "calibration": ROWS, "recover": 3},
    "directions": {"target": "macs=90%", "granularity": "eigen", "calibration": ROWS},
    "gates that fail": {"ratio": 0.5, "calibration": ROWS, "min_cosine": 1.0, "max_size": 1},
    "what carries nothing": {"lossless": True},
}


@pytest.mark.parametrize("case", DECISIONS)
def test_a_plan_is_what_a_run_decides(case: str) -> None:
    settings = {"round_to": 1, "latency": False} | DECISIONS[case]
    planned, run = onnxprune.plan(dense(), **settings), onnxprune.prune(dense(), **settings)
    assert planned.to_json() == run.plan.to_json()


def test_a_plan_of_an_analysis_is_the_models() -> None:
    analysis = onnxprune.analyze(dense(), granularity="width")
    planned = onnxprune.plan(analysis, ratio=0.5, round_to=1, granularity="width")
    assert planned.to_json() == onnxprune.plan(dense(), ratio=0.5, round_to=1, granularity="width").to_json()


def test_a_plan_for_a_latency_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.report.gates.LATENCY_SECONDS", 0.02)
    monkeypatch.setattr("onnxprune.changes.latency.LATENCY_TURNS", 1)
    try:
        assert onnxprune.plan(dense(), target="latency=0.999x").groups
    except TargetError as error:  # so small a model may be timed as slower
        assert "latency" in str(error)


# --- data -----------------------------------------------------------------------------------------------------------


def test_a_sweep_reads_what_can_be_read_once_for_all_its_points() -> None:
    found = api.sweep(
        dense(),
        calibration=iter([ROWS[:20], ROWS[20:]]),
        ratios=[0.25, 0.5],
        criteria=["l2", "wanda"],
        repairs=["bias"],
    )
    assert len(found["points"]) == 4 and all(point["error"] is None for point in found["points"])


def test_a_script_may_use_what_looks_its_module_up(tmp_path: Path) -> None:
    script = tmp_path / "rows.py"
    script.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass, fields\nimport numpy as np, typing\n"
        "@dataclass\nclass Size:\n    rows: typing.ClassVar[int] = 8\n    width: int = 8\n"
        "def load_data():\n    yield np.ones((Size.rows, Size().width), np.float32)\n"
    )
    other = tmp_path / "other" / "rows.py"
    other.parent.mkdir()
    other.write_text("def load_data():\n    raise ValueError('another script of this name')\n")
    assert (
        onnxprune.prune(dense(), calibration=script, criterion="wanda", latency=False).report["drift"]["samples"] == 8
    )
    with pytest.raises(DataError, match="another script of this name"):
        onnxprune.prune(dense(), calibration=other, criterion="wanda", latency=False)


@pytest.mark.parametrize("kind", ["npz", "folder", "script", "feeds"])
def test_scalar_inputs_are_fed_from_every_kind_of_data(kind: str, tmp_path: Path) -> None:
    model, feeds, _ = FORMS["a scalar input"](tmp_path)
    sources: dict[str, Any] = {
        "npz": tmp_path / "0.npz",
        "folder": tmp_path,
        "script": tmp_path / "s.py",
        "feeds": feeds,
    }
    for number, feed in enumerate(feeds):
        np.savez(tmp_path / f"{number}.npz", **feed)
    if kind == "script":
        lines = ["import numpy as np", "def load_data():", "    for n in range(3):"]
        row = "{'x': np.full((1, 3, 6, 6), n, np.float32), 'rate': np.int64(2)}"
        sources["script"].write_text("\n".join([*lines, f"        yield {row}"]))
    report = onnxprune.prune(model, calibration=sources[kind], target="macs=60%", round_to=1, latency=False).report
    assert report["drift"]["samples"] == {"npz": 1, "script": 3}.get(kind, 6)
    assert report["after"]["macs"] <= 0.6 * report["before"]["macs"]


def test_one_row_without_its_axis_is_said_to_be_taken_as_one(caplog: pytest.LogCaptureFixture) -> None:
    report = onnxprune.prune(dense(), calibration=ROWS[0], criterion="wanda", latency=False).report
    assert report["drift"]["samples"] == 1
    assert "'x' has the shape [8], that of one sample without a first axis that counts rows" in caplog.text
    caplog.clear()
    onnxprune.prune(dense(), calibration=ROWS[:1], criterion="wanda", latency=False)
    assert not caplog.text


def test_a_repair_looks_at_as_many_rows_as_it_can_hold_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.changes.repairing.MOST_ROWS", 24)
    for settings in ({"criterion": "l2"}, {"target": "macs=60%"}):
        report = onnxprune.prune(dense(), calibration=ROWS, latency=False, **settings).report
        text = "widths and repairs go by 24 random rows of the 40 of the calibration data"
        assert [warning for warning in report["warnings"] if "random rows" in warning] == [text]
        assert report["drift"]["samples"] == 40


@pytest.mark.parametrize(
    ("option", "code"),
    [
        (["--criterion", "obs"], 2),
        (["--criterion", "taylor"], 2),
        (["--repair", "bias"], 3),
        (["--recover", "5"], 3),
        (["--search", "1s"], 3),
        (["--max-divergence", "0.1"], 3),
    ],
    ids=lambda value: str(value),
)
def test_what_looks_at_data_is_refused_before_the_model_is_read(option: list[str], code: int, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    result = CliRunner().invoke(main, [str(broken), str(tmp_path / "o.onnx"), *option])
    assert result.exit_code == code and "--calib" in result.output


# --- settings -------------------------------------------------------------------------------------------------------


def test_one_string_is_one_pattern_and_numpy_numbers_are_numbers() -> None:
    found = make_settings(
        {"exclude": "w1", "granularity": "width", "augment": "flip", "threads": np.int32(2), "ratio": np.float32(0.5),
         "layer_ratio": {"conv*": 0}, "input_shape": {"x": [1, np.int64(3)]}, "max_size": 8e6, "latency": np.bool_(False)}
    )  # fmt: skip
    assert (found.exclude, found.granularity, found.augment) == (("w1",), ("width",), ("flip",))
    assert (
        found.layer_ratio == (("conv*", 0.0),) and found.input_shape == (("x", (1, 3)),) and found.max_size == 8_000_000
    )
    assert [type(value) for value in (found.threads, found.ratio, found.latency)] == [int, float, bool]


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("threads", "2", "a whole number"),
        ("threads", 1.5, "a whole number"),
        ("threads", True, "a whole number"),
        ("samples", "many", "a whole number, or None"),
        ("seed", None, "a whole number"),
        ("ratio", "0.5", "a number, or None"),
        ("max_size", float("inf"), "a whole number, or None"),
        ("strict", 1, "True or False"),
        ("criterion", 3, "text"),
        ("recover", 1.5, "text or a whole number"),
        ("exclude", 7, "texts, or a single one"),
        ("exclude", [b"w"], "texts, or a single one"),
        ("layer_ratio", {"conv": "half"}, "names with a number each"),
        ("layer_ratio", ["conv"], "names with a number each"),
        ("input_shape", {"x": 3}, "names with sizes each"),
    ],
)
def test_a_value_of_another_type_is_refused_with_what_the_setting_takes(name: str, value: Any, wanted: str) -> None:
    with pytest.raises(UsageError, match=rf"^{name} takes {wanted}.*, not .* of type "):
        make_settings({name: value})


def test_every_setting_has_a_reader_that_takes_its_default() -> None:
    assert make_settings(vars(Settings())) == Settings()
    assert all(str(field.type).removesuffix(" | None") in KINDS for field in Settings.__dataclass_fields__.values())


COMMANDS = {
    "prune": PruneOptions, "apply": ApplyOptions, "validate": ValidateOptions, "bench": BenchOptions, "sweep": SweepOptions,
    "sensitivity": CurveOptions, "inspect": InspectOptions, "check": CheckOptions,
}  # fmt: skip
BY_OTHER_NAMES = {
    *("model", "other", "before", "after", "data", "plan", "calib"),  # arguments, and --calib, which is calibration
    *("out", "dry_run", "plan_path", "masks_path", "structured", "everything"),  # what is written and shown
    *(
        "config",
        "json",
        "html",
        "junit",
        "markdown",
        "model_explorer",
        "model_explorer_macs",
        "no_color",
        "quiet",
        "verbose",
    ),  # of the console
}


def test_settings_as_options_have_their_types() -> None:
    """What the functions of Python list by name are the fields of ``Settings``, each of its type or what is read as that."""
    options = typing.get_type_hints(SettingOptions)
    assert list(options) == [field.name for field in dataclasses.fields(Settings)]
    for name, kind in typing.get_type_hints(Settings).items():
        if str(kind).startswith("tuple"):
            assert make_settings({name: getattr(Settings(), name)}) == Settings()
        else:
            assert options[name] == kind, name


@pytest.mark.parametrize("command", COMMANDS)
def test_options_of_the_command_line_are_options_in_python(command: str) -> None:
    """An option can be followed from the command line to its use by its name and its type."""
    own = {parameter.name for parameter in import_module(f"onnxprune.cli.commands.{command}").command.params}
    told = COMMANDS[command].__annotations__.keys()
    files = {option: (kind, field) for kind, fields in READING.items() for option, field in fields.items()}
    assert own - told - BY_OTHER_NAMES - files.keys() == set()
    for option in own & files.keys():
        kind, field = files[option]
        assert kind in told
        assert field in {"images": ImageOptions, "audio": AudioOptions, "text": TextOptions}[kind].__dataclass_fields__
