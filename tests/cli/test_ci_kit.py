"""What pipelines are given: the action's own shell steps run here, every snippet is parsed and its commands exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from click.testing import CliRunner

from onnxprune.cli import main

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
PAGE = (ROOT / "docs" / "ci.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)
MODEL = ROOT / "models" / "digits_cnn.onnx"


@pytest.fixture
def runner(tmp_path: Path) -> Path:
    """A folder with what a runner has: the command on its path and the files that collect summary and outputs."""
    command = tmp_path / "bin" / "onnxprune"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m onnxprune "$@"\n')
    command.chmod(0o755)
    for name in ("summary", "output"):
        (tmp_path / name).touch()
    return tmp_path


def shell(folder: Path, text: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a shell step as a runner does, with ``bin`` of the folder first on the path."""
    script = folder / "step.sh"
    script.write_text(text)
    environment = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"} | variables
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def step(folder: Path, arguments: str, html: str = "") -> tuple[int, dict[str, str], str]:
    """Run the action's last step; return exit code, outputs and summary."""
    done = shell(
        folder,
        ACTION["runs"]["steps"][-1]["run"],
        ARGUMENTS=arguments,
        HTML=html,
        RUNNER_TEMP=str(folder),
        GITHUB_STEP_SUMMARY=str(folder / "summary"),
        GITHUB_OUTPUT=str(folder / "output"),
    )
    outputs = dict(line.split("=", 1) for line in (folder / "output").read_text().splitlines())
    return done.returncode, outputs, (folder / "summary").read_text()


def test_action_passes_on_result_summary_and_outputs(runner: Path) -> None:
    code, outputs, summary = step(runner, f"check '{MODEL}' --max-size 1MB", html="r.html")
    assert (code, outputs["exit-code"], outputs["html"]) == (0, "0", "r.html")
    assert "max\\_size" in summary
    assert json.loads(Path(outputs["report"]).read_text())["command"] == "check"
    assert (runner / "r.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("version", "installed"),
    [(ACTION["inputs"]["version"]["default"], "/action[report]"), ("onnxprune[report]==1.0", "onnxprune[report]==1.0")],
)
def test_action_installs_its_own_sources_or_what_it_is_told(version: str, installed: str, runner: Path) -> None:
    pip = runner / "bin" / "python3"
    pip.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > asked\n')
    pip.chmod(0o755)
    done = shell(runner, ACTION["runs"]["steps"][0]["run"], VERSION=version, GITHUB_ACTION_PATH="/action")
    assert done.returncode == 0, done.stderr
    assert (runner / "asked").read_text().splitlines() == ["-m", "pip", "install", "--quiet", installed]


def example() -> tuple[str, str]:
    """Return the configuration and the command of the README's pipeline section."""
    section = (ROOT / "README.md").read_text().partition("## In a pipeline")[2].partition("\n## ")[0]
    (configuration,) = re.findall(r"```toml\n(.*?)```", section, re.S)
    (command,) = re.findall(r"```sh\n(.*?)```", section, re.S)
    return configuration, command


def test_readme_example_passes(runner: Path) -> None:
    configuration, command = example()
    (runner / "onnxprune.toml").write_text(configuration)
    (runner / "models").symlink_to(ROOT / "models")
    done = shell(runner, command)
    assert done.returncode == 0, done.stderr
    suite = ElementTree.parse(runner / "onnxprune.xml").getroot()
    assert (suite.get("failures"), suite.get("errors")) == ("0", "0")
    names = {case.get("name") for case in suite.iter("testcase")}
    assert {"max_drop", "max_size", "surgery is exact"} <= names
    assert "digits" in (runner / "onnxprune.html").read_text()
    assert (runner / "digits.onnx").stat().st_size <= 400_000


def test_readme_example_names_every_missed_budget(runner: Path) -> None:
    """Exit code 1, one line for each in the output, one failure for each in the JUnit file, no model."""
    configuration, command = example()
    tight = configuration.replace('max-drop = "2%"', "min-cosine = 0.99999").replace("400kB", "1kB")
    assert tight.count("kB") == tight.count("cosine") == 1
    (runner / "onnxprune.toml").write_text(tight)
    (runner / "models").symlink_to(ROOT / "models")
    done = shell(runner, command)
    assert done.returncode == 1
    assert re.search(r"^digits: min_cosine is 0\.\d+, the limit is 0\.99999$", done.stdout, re.M)
    assert re.search(r"^digits: max_size is [\d,]+ bytes, the limit is 1,000 bytes$", done.stdout, re.M)
    failures = ElementTree.parse(runner / "onnxprune.xml").getroot().findall("testsuite/testcase/failure")
    assert len(failures) == 2
    assert not (runner / "digits.onnx").exists()


def test_action_fails_with_a_missed_budget(runner: Path) -> None:
    code, outputs, summary = step(runner, f"'{MODEL}' --no-latency --dry-run --max-size 1kB")
    assert (code, outputs["exit-code"]) == (1, "1")
    assert "✗ failed" in summary and "max\\_size" in summary


def test_action_reports_what_cannot_be_read(runner: Path) -> None:
    code, outputs, summary = step(runner, "missing.onnx")
    assert (code, outputs["exit-code"]) == (3, "3")
    assert "no such file" in summary


def test_inputs_reach_the_shell_as_variables_only() -> None:
    """An expression inside a script would be pasted into it as code."""
    for one in ACTION["runs"]["steps"]:
        assert "${{" not in one["run"]
        assert one["shell"] == "bash"
    used = re.findall(r"inputs\.([\w-]+)", (ROOT / "action.yml").read_text())
    assert set(used) == set(ACTION["inputs"])
    named = re.findall(r"steps\.onnxprune\.outputs\.([\w-]+)", (ROOT / "action.yml").read_text())
    assert set(named) == set(ACTION["outputs"])


TEMPLATE = (ROOT / "templates" / "onnxprune" / "template.yml").read_text()


def component(**given: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the inputs that the component declares, and its jobs with these filled in as GitLab does: as text, before it is parsed."""
    declared, _, body = TEMPLATE.partition("\n---\n")
    inputs = yaml.safe_load(declared)["spec"]["inputs"]
    values = {name: about["default"] for name, about in inputs.items()} | given
    return inputs, yaml.safe_load(re.sub(r"\$\[\[ inputs\.(\w+) \]\]", lambda found: values[found[1]], body))


def job_of_component(folder: Path, **given: str) -> subprocess.CompletedProcess[str]:
    """Run the script of the component's one job as a runner does, with its variables."""
    ((_, job),) = component(**given)[1].items()
    return shell(folder, "\n".join(job["script"]), **job["variables"])


def test_component_runs_and_leaves_its_artifacts(runner: Path) -> None:
    (runner / "models").symlink_to(ROOT / "models")
    (runner / "onnxprune.toml").write_text(example()[0])
    done = job_of_component(runner, package="")
    assert done.returncode == 0, done.stderr
    ((_, job),) = component()[1].items()
    wanted = [*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]]
    assert all((runner / name).stat().st_size > 100 for name in wanted)
    assert job["artifacts"]["when"] == "always" and job["stage"] == "test"


def test_component_fails_with_a_missed_budget_and_has_said_so(runner: Path) -> None:
    done = job_of_component(runner, package="", arguments=f"check '{MODEL}' --max-size 1kB")
    assert done.returncode == 1
    assert ElementTree.parse(runner / "onnxprune.xml").getroot().get("failures") == "1"


def test_component_installs_what_it_is_told(runner: Path) -> None:
    pip = runner / "bin" / "python3"
    pip.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > asked\n')
    pip.chmod(0o755)
    done = job_of_component(
        runner, arguments="--version", package="onnxprune[report] @ git+https://example.org/x@v0; echo no"
    )
    assert (runner / "asked").read_text().splitlines()[
        -1
    ] == "onnxprune[report] @ git+https://example.org/x@v0; echo no"
    assert "no\n" not in done.stdout.splitlines(keepends=True)


def test_inputs_of_the_component_are_used_and_declared() -> None:
    inputs, jobs = component()
    assert set(re.findall(r"inputs\.(\w+)", TEMPLATE)) == set(inputs)
    assert all(about["description"] for about in inputs.values())
    ((_, job),) = jobs.items()
    assert not any("[[" in line for line in job["script"])  # an input inside a script would be pasted into it as code
    used = yaml.safe_load(next(text for kind, text in BLOCKS if kind == "yaml" and "component:" in text))
    assert set(used["include"][0]["inputs"]) <= set(inputs)


def test_hook_checks_the_files_it_is_given() -> None:
    (hook,) = HOOKS
    assert re.search(hook["files"], "models/a.onnx")
    documented = yaml.safe_load(next(text for kind, text in BLOCKS if kind == "yaml" and "hooks:" in text))
    (used,) = documented["repos"][0]["hooks"]
    assert used["id"] == hook["id"]
    arguments = [*hook["entry"].split()[1:], *used["args"], str(MODEL)]
    assert CliRunner().invoke(main, arguments).exit_code == 0


def _commands(value: Any) -> list[str]:
    """Every string inside a document."""
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in items for text in _commands(item)]


def test_snippets_are_valid_and_their_options_exist() -> None:
    documents = [yaml.safe_load(text) for kind, text in BLOCKS if kind == "yaml"]
    lines = [line for document in documents for line in _commands(document)]
    lines += [line for kind, text in BLOCKS if kind in ("sh", "groovy") for line in text.splitlines()]
    calls = [match for line in lines for match in re.findall(r"(?:^|/|\s)onnxprune (run|check)\b(.*)", line)]
    assert len(calls) >= 4
    for command, rest in calls:
        known = CliRunner().invoke(main, [command, "--help"]).output
        assert all(option in known for option in re.findall(r"--[a-z]+", rest))
    assert sum(kind == "groovy" for kind, _ in BLOCKS) == 1
    groovy = next(text for kind, text in BLOCKS if kind == "groovy")
    assert groovy.count("{") == groovy.count("}")
