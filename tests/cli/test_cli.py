"""The command line: every command on real models, what goes to which stream, documents, and environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result
from support.messages import messages
from support.networks import network

from onnxprune.cli import main
from onnxprune.cli.app import Application
from onnxprune.cli.failures import Terminated
from onnxprune.cli.values import alignment, named_shape, numbers, pattern_share, share, size
from onnxprune.criteria import CRITERIA

MODELS = Path(__file__).parents[2] / "models"
CNN, TRANSFORMER = MODELS / "digits_cnn.onnx", MODELS / "digits_transformer.onnx"
TEST = MODELS / "digits_test.npz"


def run(*arguments: str | os.PathLike[str], env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], env=env)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.onnx"
    assert run(CNN, path, "--no-latency").exit_code == 0
    return path


def test_prune_is_the_default_command(tmp_path: Path, small: Path) -> None:
    result = run("prune", CNN, "-o", tmp_path / "again.onnx", "--no-latency")
    assert result.exit_code == 0
    assert (tmp_path / "again.onnx").read_bytes() == small.read_bytes()


def test_the_default_output_lies_beside_the_input(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(CNN.read_bytes())
    assert run(tmp_path / "net.onnx", "--no-latency").exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "net.pruned.onnx"]


def test_prune_prints_before_and_after_with_measured_latency(tmp_path: Path) -> None:
    result = run(CNN, tmp_path / "small.onnx", "--eval", TEST)
    assert result.exit_code == 0, result.output
    for word in (
        "channels",
        "parameters",
        "MACs",
        "bytes",
        "latency",
        "top1_accuracy",
        "surgery exact",
        "written to",
        "logits",
    ):
        assert word in result.stdout, word
    assert result.stdout.strip().splitlines()[-1].startswith("parameters -")


def test_json_to_stdout_is_all_there_is(tmp_path: Path) -> None:
    result = run(CNN, tmp_path / "small.onnx", "--no-latency", "--json", "-")
    report = json.loads(result.stdout)
    assert report["command"] == "prune"
    assert report["output"]["path"] == str(tmp_path / "small.onnx")


def test_a_failed_gate_ends_with_one_and_a_report(tmp_path: Path) -> None:
    result = run(
        CNN, tmp_path / "a.onnx", "--eval", TEST, "--max-drop", "1%", "--no-latency", "--json", tmp_path / "r.json"
    )
    assert result.exit_code == 1
    assert "gate failed: max_drop" in result.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["exit_code"], report["output"]) == (1, None)
    assert not (tmp_path / "a.onnx").exists()


def test_errors_reach_json_too(tmp_path: Path) -> None:
    result = run(CNN, "--target", "params=1", "--json", tmp_path / "r.json")
    failure = json.loads((tmp_path / "r.json").read_text())
    assert result.exit_code == failure["exit_code"] == 4
    assert failure["best"] > 1
    assert failure["error"] in result.stderr
    assert json.loads(run("none.onnx", "--json", "-").stdout)["exit_code"] == 3


def test_plan_and_apply(tmp_path: Path, small: Path) -> None:
    plan = tmp_path / "plan.json"
    assert run(CNN, "--dry-run", "--no-latency", "--plan", plan).exit_code == 0
    assert run("apply", plan, CNN, tmp_path / "replayed.onnx", "--no-latency").exit_code == 0
    assert (tmp_path / "replayed.onnx").read_bytes() == small.read_bytes()
    assert run("apply", CNN, plan, tmp_path / "reversed.onnx", "--no-latency").exit_code == 0
    assert (tmp_path / "reversed.onnx").read_bytes() == small.read_bytes()
    refused = run("apply", plan, TRANSFORMER, tmp_path / "wrong.onnx")
    assert refused.exit_code == 3
    assert "--force" in refused.stderr


def test_inspect_names_what_stays_and_the_way_out() -> None:
    result = run("inspect", TRANSFORMER)
    assert result.exit_code == 0
    for word in ("prunable: 100.0% of the MACs", "Softmax", "--granularity stream"):
        assert word in result.stdout, word


def test_inspect_shows_all_where_asked(tmp_path: Path) -> None:
    normed = "; ".join(f"p{n} = MatMul(x, %3x6); m{n} = MeanVarianceNormalization<axes=[2]>(p{n})" for n in range(30))
    last = ", ".join(f"m{n}" for n in range(30))
    model = tmp_path / "many.onnx"
    onnx.save(network(f"{normed}; s = Sum({last}); y = MatMul(s, %6x5)", "float[2,4,3] x"), model)
    short, everything = run("inspect", model).stdout, run("inspect", model, "--all").stdout
    assert "more; --all shows them" in short and "--all shows them" not in everything
    assert len(everything) > len(short)


def test_inspect_counts_kernel_axes() -> None:
    assert "kernel axes stay" in run("inspect", CNN).stdout
    frozen = json.loads(run("inspect", CNN, "--json", "-").stdout)["frozen"]
    assert sum(row["reason"].startswith("a window slides") for row in frozen) > 10
    assert [row["macs"] for row in frozen] == sorted((row["macs"] for row in frozen), reverse=True)


def test_the_residual_stream_is_free() -> None:
    report = json.loads(run("inspect", TRANSFORMER, "--json", "-").stdout)
    stream = max(report["groups"], key=lambda group: len(group["members"]))
    assert len(stream["members"]) > 20 and not stream["lossy_nodes"]
    assert report["prunable"]["parameters"] > 0.98


def test_validate_reports_drift_and_accuracy(small: Path) -> None:
    result = run("validate", CNN, small, "--data", TEST, "--json", "-")
    report = json.loads(result.stdout)
    assert report["task"]["before"] > 0.99 > report["task"]["after"]
    assert report["drift"]["outputs"]["logits"]["cosine"] < 1
    same = json.loads(run("validate", CNN, CNN, "--data", TEST, "--json", "-").stdout)
    assert same["drift"]["outputs"]["logits"]["max_abs"] == 0
    assert run("validate", CNN, small, "--data", TEST, "--min-agreement", "0.999").exit_code == 1


def test_bench_measures_in_turns(small: Path) -> None:
    report = json.loads(run("bench", CNN, small, "--pairs", "12", "--seconds", "1", "--json", "-").stdout)
    assert report["latency"]["before"]["runs"] == report["latency"]["after"]["runs"] <= 12
    assert report["latency"]["cpu"]["after"]["runs"] == report["latency"]["after"]["runs"]
    assert min(report["latency"]["after"]["p10"], report["latency"]["cpu"]["after"]["p10"]) > 0
    assert report["latency"]["sizes"] == {"image": [1, 1, 8, 8]}
    assert "p10" in run("bench", small, "--pairs", "10", "--seconds", "1").stdout


def test_ops_lists_every_operator() -> None:
    report = json.loads(run("ops", "--json", "-").stdout)
    families = {(row["domain"], row["op"]): row["family"] for row in report["operators"]}
    assert families["", "Conv"] is not None
    assert ("", "Abs") in families
    assert report["counts"]["total"] == len(families)
    assert "Conv" in run("ops").stdout


def test_criteria_lists_every_criterion() -> None:
    listed = run("criteria").stdout
    assert all(name in listed for name in CRITERIA)


def test_environment_gives_defaults_that_options_override(tmp_path: Path) -> None:
    def ratio(*options: str, **env: str) -> float:
        result = run(CNN, "--dry-run", "--no-latency", "--json", "-", *options, env=env)
        return json.loads(result.stdout)["settings"]["ratio"]

    assert ratio(ONNXPRUNE_RATIO="0.25") == 0.25
    assert ratio("--ratio", "0.75", ONNXPRUNE_RATIO="0.25") == 0.75


def test_config_file_stands_below_environment_and_options(tmp_path: Path) -> None:
    config = tmp_path / "prune.toml"
    config.write_text('ratio = 0.125\nexclude = ["op:Gemm"]\nround_to = 1\n')

    def settings(*options: str, **env: str) -> dict:
        result = run(CNN, "--dry-run", "--no-latency", "--json", "-", "--config", config, *options, env=env)
        return json.loads(result.stdout)["settings"]

    assert settings()["ratio"] == 0.125
    assert settings()["exclude"] == ["op:Gemm"]
    assert settings(ONNXPRUNE_RATIO="0.25")["ratio"] == 0.25
    assert settings("--ratio", "0.5", ONNXPRUNE_RATIO="0.25")["ratio"] == 0.5
    config.write_text("rato = 0.5\n")
    refused = run(CNN, "--config", config)
    assert refused.exit_code == 2
    assert "'rato'; did you mean 'ratio'" in refused.stderr
    config.write_text("ratio = \n")
    assert run(CNN, "--config", config).exit_code == 2


def test_markdown_has_the_same_numbers(tmp_path: Path) -> None:
    result = run(CNN, "--dry-run", "--no-latency", "--markdown", "-", "--json", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    assert f"| parameters | {report['before']['parameters']:,} | {report['after']['parameters']:,} |" in result.stdout


@pytest.mark.parametrize(
    ("env", "coloured"), [({"NO_COLOR": "1", "FORCE_COLOR": ""}, False), ({"FORCE_COLOR": "1"}, True), ({}, False)]
)
def test_colours_follow_the_environment(env: dict[str, str], coloured: bool) -> None:
    clean = {
        k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE")
    }
    command = [sys.executable, "-m", "onnxprune", "inspect", str(TRANSFORMER)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=clean | env | {"TERM": "xterm-256color"}, check=True
    )
    assert ("\x1b[" in done.stdout) == coloured
    assert messages(done.stderr) == ""


def test_version() -> None:
    assert run("--version").stdout.startswith("onnxprune 0.")


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (share, "2%", 0.02),
        (share, "0.5", 0.5),
        (size, "8MB", 8_000_000),
        (size, "2.5MiB", 2_621_440),
        (named_shape, "a:b:1x3x4", ("a:b", (1, 3, 4))),
        (named_shape, "x:1,3", ("x", (1, 3))),
        (numbers, "0.5,1", (0.5, 1.0)),
        (pattern_share, "a=b=20%", ("a=b", 0.2)),
        (alignment, "auto", "auto"),
        (alignment, "8", 8),
        (alignment, "qnn-htp", "qnn-htp"),
    ],
)
def test_option_values(read, text: str, value: object) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (share, "x"),
        (share, "nan"),
        (size, "8 apples"),
        (named_shape, "1,3"),
        (numbers, "1;2"),
        (pattern_share, "0.2"),
    ],
)
def test_option_values_that_make_no_sense(read, text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        read(text)


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_an_interrupt_before_a_command_is_found(monkeypatch: pytest.MonkeyPatch, error: type, code: int) -> None:
    def interrupted(*_: object) -> None:
        raise error

    monkeypatch.setattr(Application, "parse_args", interrupted)
    result = CliRunner().invoke(main, ["ops"])
    assert (result.exit_code, messages(result.stderr).count("\n")) == (code, 1)
    assert "nothing was left half-written" in result.stderr
