"""Values that nobody means: in options, configurations, variables, reports and scripts they end with 2 or 3 and one message."""

from __future__ import annotations

import json
import math
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from support.networks import network

from onnxprune.api import read_report
from onnxprune.cli import main
from onnxprune.cli.config import JOBS, parameters, read
from onnxprune.errors import OnnxPruneError, UsageError
from onnxprune.report.baseline import Baseline

COMMANDS = {
    "prune": ["net.onnx", "--dry-run", "--no-latency"],
    "inspect": ["net.onnx"],
    "apply": ["plan.json", "net.onnx", "--dry-run", "--no-latency"],
    "validate": ["net.onnx", "net.onnx", "--data", "x.npz"],
    "bench": ["net.onnx", "net.onnx", "--pairs", "1", "--seconds", "0.01"],
    "check": ["net.onnx"],
    "sensitivity": ["net.onnx", "--calib", "x.npz"],
    "sweep": ["net.onnx", "--ratios", "0.5", "--eval", "x.npz"],
    "report": ["report.json"],
    "run": [],
}
WRONG = (
    "",
    " ",
    "nan",
    "inf",
    "-1",
    "1e400",
    "9" * 400,
    "a" * 300,
    ":",
    "=",
    "%",
    "re:(",
    "x:0",
    "é=\u202e",
    "/dev/null/x",
)
LONG = {"search", "seconds", "pairs", "recover", "search_recover"}  # whose large values are meant


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile")
    draw = np.random.default_rng(0)
    body = "h = Conv(x, %8x3x3x3); r = Relu(h); y = Conv(r, %4x8x1x1)"
    onnx.save(network(body, "float[N,3,6,6] x", "float[N,4,4,4] y"), path / "net.onnx")
    np.savez(path / "x.npz", x=draw.standard_normal((12, 3, 6, 6)).astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        result = run("net.onnx", "--dry-run", "--no-latency", "--plan", "plan.json", "--json", "report.json")
        assert result.exit_code == 0, result.stderr
    return path


def run(*arguments: str | os.PathLike[str], env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], env=env)


def understood(result: Result) -> None:
    """Done, or refused by one message that does not ask for a report of it."""
    assert result.exit_code in (0, 1, 2, 3, 4, 5), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "unexpected" not in result.stderr, result.stderr
    assert "Traceback" not in result.output


def options_of(command: str) -> list[click.Option]:
    found = import_module(f"onnxprune.cli.commands.{command}").command.params
    return [option for option in found if isinstance(option, click.Option) and not option.is_flag]


# --- options and variables ------------------------------------------------------------------------------------------


def once() -> list[tuple[str, click.Option, str]]:
    """Return (command, option, value): every option in the first command that has it, with three of the values each."""
    found: dict[str, tuple[str, click.Option]] = {}
    for command in COMMANDS:
        for option in options_of(command):
            found.setdefault(str(option.name), (command, option))
    rows = []
    for number, (command, option) in enumerate(found.values()):
        values = [value for value in WRONG if not (option.name in LONG and value.isdigit())]
        rows += [(command, option, values[(number + step) % len(values)]) for step in (0, 5, 10)]
    return rows


@pytest.mark.parametrize(("command", "option", "value"), once(), ids=lambda v: getattr(v, "name", str(v)[:20]))
def test_options(command: str, option: click.Option, value: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    understood(run(command, *COMMANDS[command], max(option.opts, key=len), value))


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--threads", "100000", "give at most 1024"),
        ("--max-divergence", "inf", "a number above 0"),
        ("--learning-rate", "nan", "give a number above zero"),
        ("--recover", "9" * 400, "give a number of steps such as 200"),
        ("--max-size", "9" * 400, "expected a finite number"),
        ("--scale", "inf", "finite numbers"),
        ("--calib", "a" * 300, "File name too long"),
        ("--ratio", "half", "a percentage such as 2%"),
    ],
)
def test_what_is_said(option: str, value: str, words: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    result = run("net.onnx", "--dry-run", option, value)
    assert (result.exit_code, words in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize("text", ["50%", "0.5", " 50 % ".replace(" %", "%")])
def test_ratios_are_shares(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    result = run("net.onnx", "--dry-run", "--no-latency", "--ratio", text, "--json", "-")
    assert json.loads(result.stdout)["settings"]["ratio"] == 0.5


@pytest.mark.parametrize(
    ("variable", "value", "code"),
    [
        ("ONNXPRUNE_RATIO", "x", 2),
        ("ONNXPRUNE_RATIO", "25%", 0),
        ("ONNXPRUNE_EVAL", "nowhere.npz", 3),
        ("ONNXPRUNE_PLAN", "nowhere/plan.json", 3),
        ("ONNXPRUNE_NO_LATENCY", "maybe", 2),
        ("ONNXPRUNE_DRY_RUN", "perhaps", 2),
        ("ONNXPRUNE_CONFIG", "nowhere.toml", 2),
        ("ONNXPRUNE_THREADS", "two", 2),
    ],
)
def test_variables(variable: str, value: str, code: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option has a variable of its own name, read as the option is."""
    monkeypatch.chdir(folder)
    flags = [
        flag for flag in ("--dry-run", "--no-latency") if not variable.endswith(flag[2:].replace("-", "_").upper())
    ]
    result = run("net.onnx", *flags, "--round-to", "1", env={variable: value})
    assert result.exit_code == code, result.stderr
    understood(result)


def test_a_variable_turns_off_what_its_option_turns_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    report = json.loads(run("net.onnx", "--dry-run", "--json", "-", env={"ONNXPRUNE_NO_LATENCY": "1"}).stdout)
    assert report["settings"]["latency"] is False


# --- configurations -------------------------------------------------------------------------------------------------

plain = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(WRONG)
)
content = st.recursive(
    plain.filter(lambda value: value is not None),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
KEYS = sorted({name for command in JOBS for name in parameters(command)})


def in_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{in_toml(key)} = {in_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(in_toml, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value).replace("\x7f", "\\u007f")


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), content, max_size=3), st.sampled_from(JOBS), content)
def test_jobs_of_any_content(found: dict[str, Any], command: str, other: Any) -> None:
    """A configuration is read or refused, and what is read has the types that the command line gives."""
    lines = [f"{in_toml(key)} = {in_toml(value)}" for key, value in found.items()]
    path = Path(os.environ["PYTEST_TMP"]) / "onnxprune.toml"
    tail = (
        f"[defaults]\nseed = {in_toml(other)}\n"
        if isinstance(other, int | float | str)
        else f"budgets = {in_toml(other)}\n"
    )
    head = "" if tail.startswith("[") else tail
    body = f"[jobs.a]\ncommand = {in_toml(command)}\nmodel = 'm'\n" + "\n".join(lines) + "\n"
    path.write_text(head + body + (tail if not head else ""))
    try:
        (job,) = read(path)
    except UsageError:
        return
    for name, parameter in parameters(command).items():
        value = job.values[str(parameter.name)]
        if name in found and not parameter.multiple and parameter.type in (click.INT, click.FLOAT):
            assert type(value) in (int, float)


@pytest.fixture(autouse=True, scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_TMP", str(tmp_path_factory.mktemp("toml")))
        yield


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("onnxprune.toml", "a = " + "[" * 5000 + "]" * 5000),
        ("onnxprune.toml", "[jobs.a]\nmodel = 'a\\u0000b'\n".replace("'", '"')),
        ("onnxprune.toml", "[jobs.a]\nmodel = 1979-05-27\n"),
        ("onnxprune.toml", "[jobs.a]\nmodel = 'm'\nseed = 1.5\n"),
        ("onnxprune.toml", "[jobs.a]\nmodel = 'm'\nthreads = nan\n"),
        ("onnxprune.toml", "jobs = 3\n"),
        ("onnxprune.toml", "[jobs]\na = 3\n"),
        ("onnxprune.toml", "defaults = []\n[jobs.a]\nmodel = 'm'\n"),
        ("pyproject.toml", "tool = 3\n"),
        ("pyproject.toml", "[tool]\nonnxprune = 'x'\n"),
        ("pyproject.toml", "\x00\x01"),
    ],
)
def test_configurations_that_make_no_sense(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(text)
    for arguments in ([], ["--config", name]):
        result = run("run", *arguments)
        assert result.exit_code == 2, result.output
        understood(result)
    assert name in result.stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
@pytest.mark.parametrize("special", ["fifo", "/dev/zero"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--config", "{}"],
        ["net.onnx", "--dry-run", "--config", "{}"],
        ["net.onnx", "--dry-run", "--baseline", "{}"],
        ["run", "--config", "right.toml", "--baseline", "{}"],
        ["report", "{}"],
        ["apply", "{}", "net.onnx", "--dry-run"],
    ],
    ids=" ".join,
)
def test_what_never_ends_is_not_read(
    arguments: list[str], special: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FIFO that nobody writes to, a device without an end: named, at once."""
    monkeypatch.chdir(folder)
    if not Path("fifo").exists():
        os.mkfifo("fifo")
    (folder / "right.toml").write_text("[jobs.a]\nmodel = 'net.onnx'\n")
    result = run(*(word.replace("{}", special) for word in arguments))
    assert result.exit_code in (2, 3)
    assert f"{special}: a" in result.stderr and "not a regular file" in result.stderr


@pytest.mark.parametrize(
    "line",
    [
        "ratio = [0.1]",
        "ratio = true",
        "seed = 1.5",
        "exclude = {a = 1}",
        "dry-run = 'yes'",
        "calib = 3.0",
        "config = 'x'",
    ],
)
def test_defaults_of_wrong_types(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "wrong.toml").write_text(line)
    result = run("net.onnx", "--dry-run", "--config", "wrong.toml")
    assert result.exit_code in (2, 3), result.output
    understood(result)


def test_defaults_are_read_as_options_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    text = "no-latency = true\nratio = '25%'\nround-to = 1\ninclude = 'op:Conv'\ndry-run = true\n"
    (folder / "right.toml").write_text(text)
    found = json.loads(run("net.onnx", "--config", "right.toml", "--json", "-").stdout)["settings"]
    assert (found["latency"], found["ratio"], found["include"]) == (False, 0.25, ["op:Conv"])


# --- reports --------------------------------------------------------------------------------------------------------


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_reports_with_anything_in_any_place(folder_of_reports: Path, data: st.DataObject) -> None:
    """A damaged report is refused by name, or shows nothing of what is damaged; no place of it ends in a traceback."""
    report = json.loads((folder_of_reports / "report.json").read_text())
    place: Any = report
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        place[key] = data.draw(plain | st.just([]) | st.just({}) | st.just([1]) | st.just({"a": None}))
        break
    path = folder_of_reports / "damaged.json"
    path.write_text(json.dumps(report))
    result = run("report", path, "--markdown", folder_of_reports / "m.md", "--junit", folder_of_reports / "j.xml")
    understood(result)
    assert result.exit_code == 0 or "damaged.json" in result.stderr
    try:
        Baseline(read_report(path)).judge(json.loads((folder_of_reports / "report.json").read_text()))
    except OnnxPruneError as error:
        assert "baseline" in str(error) or "damaged.json" in str(error)


@pytest.fixture(scope="module")
def folder_of_reports(folder: Path) -> Path:
    return folder


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "3", "[" * 10**5, '{"jobs": []}', '{"schema_version": 1}', "9" * 5000]
)
def test_what_is_no_report(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "none.json").write_text(text)
    (folder / "jobs.toml").write_text("[jobs.a]\nmodel = 'net.onnx'\n")
    for arguments in (
        ["report"],
        ["net.onnx", "--dry-run", "--baseline"],
        ["run", "--config", "jobs.toml", "--baseline"],
    ):
        result = run(*arguments, "none.json")
        assert result.exit_code in (2, 3)
        assert "none.json" in result.stderr
        understood(result)


def test_a_report_of_another_command_is_no_baseline_of_jobs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "jobs.toml").write_text("[jobs.a]\nmodel = 'net.onnx'\ndry-run = true\n")
    result = run("run", "--config", "jobs.toml", "--baseline", "report.json")
    assert (result.exit_code, "onnxprune run --json" in result.stderr) == (2, True)


# --- scripts --------------------------------------------------------------------------------------------------------

MISDEEDS = {
    "raises": ("raise RuntimeError('no disk')", "RuntimeError: no disk"),
    "exits": ("import sys; sys.exit(0)", "sys.exit(0)"),
    "exits with words": ("import sys; sys.exit('enough')", "sys.exit('enough')"),
    "recurses": ("def f(): f()\n    f()", "RecursionError"),
    "asserts": ("assert False", "AssertionError"),
    "returns nothing": ("return None", ""),
    "returns text": ("return 'x'", ""),
}


@pytest.mark.parametrize("misdeed", MISDEEDS)
@pytest.mark.parametrize("place", ["load_data", "the file", "the metric"])
def test_scripts_that_misbehave(place: str, misdeed: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 3 with the script's name and its reason; a sys.exit(0) inside a script is no success."""
    monkeypatch.chdir(folder)
    body, words = MISDEEDS[misdeed]
    if place == "the file":
        body = body if "return" not in body else "load_data = " + body.removeprefix("return ")
        text, arguments = body.replace("    f()", "f()"), ["--calib", "script.py"]
    elif place == "load_data":
        text, arguments = f"def load_data():\n    {body}\n", ["--calib", "script.py"]
    else:
        text, arguments = f"def score(outputs, labels):\n    {body}\n", ["--metric", "script.py:score"]
    (folder / "script.py").write_text(text)
    command = ["net.onnx", "--dry-run"] if "--calib" in arguments else COMMANDS["validate"]
    result = run(*(["validate"] if "--metric" in arguments else []), *command, *arguments)
    assert result.exit_code == 3, result.output
    assert words in result.stderr
    assert "script" in result.stderr or "score" in result.stderr
    understood(result)


def test_what_a_script_prints_is_no_result(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    text = (
        "import numpy as np\nprint('hello')\ndef load_data():\n    print('there')\n    return np.load('x.npz')['x']\n"
    )
    (folder / "script.py").write_text(text)
    result = run("net.onnx", "--dry-run", "--no-latency", "--calib", "script.py", "--criterion", "l2", "--json", "-")
    assert json.loads(result.stdout)["command"] == "prune"
    assert {"hello", "there"} <= set(result.stderr.splitlines())


def test_a_job_that_fails_unexpectedly_does_not_stop_the_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    text = "[jobs.a]\nmodel = 'net.onnx'\ndry-run = true\n[jobs.b]\ncommand = 'check'\nmodel = 'net.onnx'\n"
    (folder / "jobs.toml").write_text(text)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("something odd")

    monkeypatch.setattr("onnxprune.api.prune", broken)
    result = run("run", "--config", "jobs.toml", "--json", "jobs.json")
    assert result.exit_code == 3
    report = json.loads((folder / "jobs.json").read_text())
    assert "something odd" in report["jobs"]["a"]["error"]
    assert report["jobs"]["b"]["exit_code"] == 0
