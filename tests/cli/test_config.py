"""Jobs and budgets: the configuration is the command line's own options, every budget is judged, baselines hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from onnxprune.cli import main
from onnxprune.cli.config import JOBS, Job, find, parameters, read
from onnxprune.cli.schema import schema
from onnxprune.errors import DataError, UsageError
from onnxprune.report.baseline import LATENCY_TOLERANCE, Baseline

MODELS = Path(__file__).parents[2] / "models"
CNN = f'model = "{MODELS / "digits_cnn.onnx"}"\n'
PRUNE = f'[jobs.cnn]\n{CNN}output = "small.onnx"\nno-latency = true\nforce = true\n'
CHECK = f'[jobs.whole]\ncommand = "check"\n{CNN}'


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def written(folder: Path, text: str, name: str = "onnxprune.toml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def jobs(folder: Path, text: str) -> dict[str, Job]:
    return {job.name: job for job in read(written(folder, text))}


def test_values_are_those_of_the_command_line(tmp_path: Path) -> None:
    text = (
        PRUNE
        + 'max-drop = "2%"\nmax_size = "8MB"\nexclude = ["a*", "op:Gemm"]\nlayer-ratio = "conv*=0.2"\nround-to = 8\n'
    )
    values = jobs(tmp_path, text)["cnn"].values
    assert (values["max_drop"], values["max_size"]) == (0.02, 8_000_000)
    assert (values["exclude"], values["layer_ratio"]) == (("a*", "op:Gemm"), (("conv*", 0.2),))
    assert (values["latency"], values["force"], values["dry_run"], values["round_to"]) == (False, True, False, 8)


def test_every_job_may_set_what_its_command_takes(tmp_path: Path) -> None:
    for command in JOBS:
        known = {p.name for p in parameters(command).values()}
        assert known == set(jobs(tmp_path, _least(command))["j"].values)


def _least(command: str) -> str:
    needed = "".join(f'{name} = "x"\n' for name, p in parameters(command).items() if p.required)
    return f'[jobs.j]\ncommand = "{command}"\n{needed}'


def test_paths_begin_at_the_configuration(tmp_path: Path) -> None:
    text = '[jobs.v]\ncommand = "validate"\nbefore = "a.onnx"\nafter = "/b.onnx"\ndata = "d.npz"\nmetric = "m.py:f"\n'
    values = jobs(tmp_path, text)["v"].values
    assert values["before"] == str(tmp_path / "a.onnx")
    assert values["after"] == "/b.onnx"
    assert values["metric"] == f"{tmp_path / 'm.py'}:f"


def test_a_job_wins_over_what_all_share(tmp_path: Path) -> None:
    text = '[defaults]\nratio = 0.3\nseed = 4\n[budgets]\nmax-size = "1kB"\nmin-prunable = 0.9\n'
    found = jobs(tmp_path, text + PRUNE + 'ratio = 0.7\nbudgets = { max-size = "2kB" }\n' + CHECK)
    assert (found["cnn"].values["ratio"], found["cnn"].values["seed"], found["cnn"].values["max_size"]) == (
        0.7,
        4,
        2000,
    )
    assert (found["whole"].values["max_size"], found["whole"].values["min_prunable"]) == (1000, 0.9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PRUNE + "ratoi = 0.5\n", "did you mean 'ratio'"),
        (PRUNE + "budgets = { max-dorp = 0.1 }\n", "did you mean 'max-drop'"),
        (PRUNE + "budgets = { ratio = 0.1 }\n", "there is no key 'ratio'"),
        ("[bugdets]\n" + PRUNE, "did you mean 'budgets'"),
        ('[jobs.a]\ncommand = "prun"\n', "did you mean 'prune'"),
        ("[jobs.a]\nratio = 0.5\n", "model is missing"),
        (PRUNE + "dry-run = 1\n", "expected true or false"),
        (PRUNE + 'max-drop = "much"\n', "cnn, max-drop"),
        (PRUNE + "ratio = true\n", "is not what --ratio takes"),
        (PRUNE + "ratio = [0.1, 0.2]\n", "is not what --ratio takes"),
        ("jobs = 3\n", "is to be a table"),
        ("", "has no jobs"),
        ("jobs = [\n", "cannot be read"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(written(tmp_path, text))


def test_found_in_either_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no onnxprune\.toml"):
        find(tmp_path)
    written(tmp_path, "[tool.other]\n", "pyproject.toml")
    with pytest.raises(UsageError, match=r"no onnxprune\.toml"):
        find(tmp_path)
    project = written(tmp_path, f"[tool.onnxprune.jobs.a]\n{CNN}", "pyproject.toml")
    assert find(tmp_path) == project
    assert [job.name for job in read(project)] == ["a"]
    assert find(written(tmp_path, PRUNE).parent).name == "onnxprune.toml"


def accepts(rule: dict[str, Any], value: Any) -> bool:
    """The part of JSON Schema that ours uses."""
    if "oneOf" in rule:
        return sum(accepts(one, value) for one in rule["oneOf"]) == 1
    if "const" in rule:
        return value == rule["const"]
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    names = rule["type"] if isinstance(rule["type"], list) else [rule["type"]]
    if not any(isinstance(value, kinds[name]) and (name == "boolean") == isinstance(value, bool) for name in names):
        return False
    if isinstance(value, list):
        return all(accepts(rule["items"], item) for item in value)
    if isinstance(value, dict):
        known, other = rule.get("properties", {}), rule.get("additionalProperties", True)
        inner = [(known.get(key, other), item) for key, item in value.items()]
        wanted = all(key in value for key in rule.get("required", ()))
        return wanted and all(one if isinstance(one, bool) else accepts(one, item) for one, item in inner)
    return True


def test_schema_accepts_what_the_reader_accepts(tmp_path: Path) -> None:
    import tomllib

    rule = schema()
    for text in (PRUNE + CHECK, *(_least(command) for command in JOBS), PRUNE + 'exclude = "a"\nmax-drop = "1%"\n'):
        assert read(written(tmp_path, text))
        assert accepts(rule, tomllib.loads(text)), text
    for text in (PRUNE + "ratoi = 1\n", "[jobs.a]\nratio = 0.5\n", PRUNE + "seed = 'x'\n", "[jos]\n"):
        assert not accepts(rule, tomllib.loads(text)), text


def test_schema_command_prints_it() -> None:
    assert json.loads(run("schema").output) == schema()


def test_every_missed_budget_is_listed_and_ends_with_one(tmp_path: Path) -> None:
    text = PRUNE + 'budgets = { max-size = "1kB" }\n' + CHECK + 'budgets = { max-params = "1k", min-prunable = 0.5 }\n'
    result = run(
        "run", "--config", written(tmp_path, text), "--json", tmp_path / "r.json", "--junit", tmp_path / "r.xml"
    )
    assert result.exit_code == 1
    assert "cnn: max_size is" in result.stdout
    assert "whole: max_params is" in result.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    failed = {
        (name, gate["name"]) for name, job in report["jobs"].items() for gate in job["gates"] if not gate["passed"]
    }
    assert failed == {("cnn", "max_size"), ("whole", "max_params")}
    assert not (tmp_path / "small.onnx").exists()


def test_a_job_that_cannot_be_run_does_not_stop_the_others(tmp_path: Path) -> None:
    text = '[jobs.missing]\nmodel = "no.onnx"\n' + CHECK + 'max-params = "1k"\n'
    result = run("run", "--config", written(tmp_path, text))
    assert result.exit_code == 3
    assert "whole: max_params is" in result.stdout


def test_jobs_by_name(tmp_path: Path) -> None:
    path = written(tmp_path, '[jobs.missing]\nmodel = "no.onnx"\n' + CHECK)
    assert run("run", "whole", "--config", path).exit_code == 0
    assert "did you mean 'whole'" in run("run", "wohle", "--config", path).stderr


def test_a_run_holds_against_itself_and_not_against_a_better_one(tmp_path: Path) -> None:
    path, report = written(tmp_path, PRUNE), tmp_path / "r.json"
    assert run("run", "--config", path, "--json", report).exit_code == 0
    assert run("run", "--config", path, "--baseline", report).exit_code == 0
    better = json.loads(report.read_text())
    better["jobs"]["cnn"]["after"]["macs"] //= 2
    report.write_text(json.dumps(better))
    result = run("run", "--config", path, "--baseline", report)
    assert result.exit_code == 1
    assert "baseline_macs" in result.stdout
    assert run("run", "--config", path, "--baseline", report, "--tolerance", "200%").exit_code == 0


def test_baseline_tolerances() -> None:
    then = {"after": {"macs": 1000}, "latency": {"ratio_p10": 0.5}, "task": {"drop": 0.01}}
    now = {"after": {"macs": 1020}, "latency": {"ratio_p10": 0.5 * (1 + LATENCY_TOLERANCE)}, "task": {"drop": 0.03}}
    assert all(gate["passed"] for gate in Baseline(then).judge(now))
    worse = {"after": {"macs": 1021}, "latency": {"ratio_p10": 0.56}, "task": {"drop": 0.031}}
    assert not any(gate["passed"] for gate in Baseline(then).judge(worse))
    with pytest.raises(DataError, match="nothing in common"):
        Baseline(then).judge({"after": {}})


def test_check_takes_many_models() -> None:
    result = run("check", *sorted(MODELS.glob("digits_*.onnx")), "--max-size", "800kB", "--json", "-")
    assert result.exit_code == 1
    passed = {Path(name).stem: job["gates"][0]["passed"] for name, job in json.loads(result.stdout)["jobs"].items()}
    assert passed == {"digits_cnn": False, "digits_transformer": True}


def test_options_stay_options() -> None:
    """Everything a job may not set is about the run as a whole."""
    assert all(isinstance(p, click.Option | click.Argument) for c in JOBS for p in parameters(c).values())
    assert not {"json", "html", "quiet", "config"} & set(parameters("prune"))


def test_the_documented_configuration_is_read(tmp_path: Path) -> None:
    import re

    text = (MODELS.parent / "docs" / "cli.md").read_text()
    example = re.search(r"```toml\n(.*?)```", text, re.S)
    assert example is not None
    assert set(jobs(tmp_path, example[1])) == {"digits", "transformer"}
