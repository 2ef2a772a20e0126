"""Consoles and logs: names are shown as text whatever they hold, readers may leave, quiet is quiet, commands come after options."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import helper, numpy_helper
from support.messages import messages

from onnxprune.cli import main
from onnxprune.cli.failures import Terminated, failure
from onnxprune.errors import OutputError, TargetError
from onnxprune.report.documents.markdown import escaped
from onnxprune.report.visible import harmless_lines, visible, visible_json

ROOT = Path(__file__).parents[2]
CNN = ROOT / "models" / "digits_cnn.onnx"
ATTACKS = (
    "\x1b]0;title\x07\x1b[2J",  # a terminal's title and screen
    "a\n::error::workflow command",
    "\r::add-mask::x",
    "##vso[task.setvariable variable=x]y",
    "##[error]old workflow command",
    "##teamcity[buildStatus status='FAILURE']",
    "\x9b2Jc1\x85next\u2028line",
    "\u202egnp.exe\u2066\u200b",
    "::error::first",
)
HOSTILE = "|".join(ATTACKS) + "[bold]<b>`$x$`"


def run(*arguments: str | os.PathLike[str], env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], env=env)


def harmless(text: str) -> None:
    """No control character but the end of a line, no line that continuous integration runs, nothing that turns text around."""
    assert [c for c in text if not c.isprintable() and c != "\n"] == []
    assert not re.search(r"(?m)^\s*::", text)
    assert not re.search(r"##(\[|vso\[|teamcity\[)", text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a hostile name, a model in which everything is called that, and data for it."""
    path = tmp_path_factory.mktemp("console") / HOSTILE.replace("/", "")[:100]
    path.mkdir()
    draw = np.random.default_rng(0)
    weights = {f"{HOSTILE}1": (16, 3, 3, 3), f"{HOSTILE}2": (16, 16, 3, 3), f"{HOSTILE}3": (4, 16, 1, 1)}
    names = [*weights]
    inside = [f"x{HOSTILE}", f"h{HOSTILE}", f"r{HOSTILE}", f"s{HOSTILE}", f"y{HOSTILE}"]
    nodes = [
        helper.make_node("Conv", [inside[0], names[0]], [inside[1]], f"{HOSTILE}n0", kernel_shape=[3, 3]),
        helper.make_node("Unheard", [inside[1]], [inside[2]], f"{HOSTILE}n1", domain=f"d{HOSTILE}"),
        helper.make_node("Conv", [inside[2], names[1]], [inside[3]], f"{HOSTILE}n2", kernel_shape=[3, 3]),
        helper.make_node("Conv", [inside[3], names[2]], [inside[4]], f"{HOSTILE}n3"),
    ]
    nodes[1].op_type, nodes[1].domain = "Relu", ""
    tensors = [
        numpy_helper.from_array(draw.standard_normal(shape).astype(np.float32), name) for name, shape in weights.items()
    ]
    x = helper.make_tensor_value_info(inside[0], 1, [HOSTILE, 3, 8, 8])
    y = helper.make_tensor_value_info(inside[4], 1, [HOSTILE, 4, 4, 4])
    graph = helper.make_graph(nodes, HOSTILE, [x], [y], tensors, doc_string=HOSTILE)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name=HOSTILE)
    model.metadata_props.add(key=HOSTILE, value=HOSTILE)
    onnx.save(model, path / "net.onnx")
    np.savez(path / "x.npz", **{inside[0]: draw.standard_normal((16, 3, 8, 8)).astype(np.float32)})
    return path


@pytest.mark.parametrize(
    "command",
    [
        "inspect net.onnx --all",
        "net.onnx small.onnx --force --no-latency --plan plan.json",
        "net.onnx small.onnx --force --calib x.npz --criterion l2 -v --no-latency",
        "validate net.onnx net.onnx --data x.npz --layers",
        "bench net.onnx net.onnx --pairs 10 --seconds 0.2",
        "check net.onnx --max-size 1",
        "sweep net.onnx --ratios 0.5 --eval x.npz",
        "sensitivity net.onnx --calib x.npz",
    ],
)
def test_names_are_shown_as_text(folder: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    reports = [f"--{kind}={kind}.txt" for kind in ("json", "markdown", "junit", "html", "model-explorer")]
    result = run(*command.split(), *reports)
    assert result.exit_code in (0, 1), result.stderr
    harmless(result.stdout)
    harmless(result.stderr)
    for kind in ("json", "markdown", "junit", "model-explorer"):
        harmless((folder / f"{kind}.txt").read_text())
    assert "<b>" not in (folder / "markdown.txt").read_text() + (folder / "html.txt").read_text()


@pytest.mark.parametrize("kind", ["json", "markdown", "junit"])
def test_documents_on_stdout_are_harmless(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    harmless(run("inspect", "net.onnx", f"--{kind}", "-").stdout)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize(
    "command",
    [
        ["{}"],
        ["inspect", "{}"],
        [CNN, "--exclude", "{}"],
        [CNN, "--{}"],
        [CNN, "--config", "{}"],
        [CNN, "--ratio", "{}"],
        [CNN, "--calib", "{}.npz"],
        [CNN, "--json", "{}/r.json"],
        [CNN, "--input-shape", "{}:1,2"],
        [CNN, "--criterion", "{}"],
        ["run", "{}", "--config", "{}"],
        ["run", "--config", "jobs.toml"],
    ],
    ids=lambda command: " ".join(str(word) for word in command)[-30:],
)
def test_what_was_typed_is_shown_as_text(
    command: list[str], attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Job names too: these become rows, headings and suites."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs.toml").write_text(f"[jobs.{json.dumps(attack)}]\nmodel = {json.dumps(attack)}\n")
    result = run(*(str(word).replace("{}", attack) for word in command), "--markdown", "m.md", "--junit", "j.xml")
    assert result.exit_code in (2, 3)
    harmless(result.stdout)
    harmless(result.stderr)
    for document in tmp_path.glob("[mj].*"):
        harmless(document.read_text())


def test_a_file_name_that_is_no_text(tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"\xff.onnx")
    Path(os.fsdecode(path)).write_bytes(CNN.read_bytes())
    arguments = [sys.executable, "-m", "onnxprune", "inspect", path, "--json", "-"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert os.fsencode(json.loads(done.stdout)["model"]["path"]) == path
    assert b"\xff" not in done.stdout


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ümlaut 名", "plain ümlaut 名"),
        ("a\x1b[0m\x00\x9b", r"a\x1b[0m\x00\x9b"),
        ("a\nb\r\u2028\u202e", r"a\nb\r\u2028\u202e"),
        ("\udcff\U000e0001", r"\udcff\U000e0001"),
        ("::error::x", r"\x3a:error::x"),
        ("onnx::MatMul_3", "onnx::MatMul_3"),
        ("x ##[error] ##vso[y] # ## [a]", r"x \x23#[error] \x23#vso[y] # ## [a]"),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert json.loads(visible_json(json.dumps(text, ensure_ascii=False))) == text


def test_lines_are_guarded_wherever_they_break() -> None:
    assert harmless_lines("a\n  ::b::\n\x1b[31m::c::x::\n") == "a\n  \\x3a:b::\n\x1b[31m\\x3a:c::x::\n"


def test_markdown_shows_marks_and_links_as_text() -> None:
    text = escaped("# ~~x~~ $y$ [a](b) `c` <i> @all https://e.org www.e.org |")
    assert not re.search(r"(?<!\\)[`$~|\[\]]|<i>|@|://|www\.", text)


# --- streams --------------------------------------------------------------------------------------------------------


def shell(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``onnxprune`` is this checkout's."""
    command = f'onnxprune() {{ "{sys.executable}" -m onnxprune "$@"; }}\n{script}'
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=folder, env=variables, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "command",
    [
        "inspect {} --all",
        "{} out.onnx --no-latency --ratio 0.03 --round-to 1 --json r.json",
        "criteria",
        "ops",
        "schema",
        "check {} --max-size 1",
    ],
)
def test_a_reader_that_leaves_does_not_end_the_run(command: str, tmp_path: Path) -> None:
    """The exit code is the run's own, what it writes is written, and nothing is said of pipes."""
    line = command.format(CNN)
    done = shell(f"onnxprune {line} | true; echo ${{PIPESTATUS[0]}} >&2", tmp_path)
    assert messages(done.stderr) == ("1\n" if "max-size" in line else "0\n")
    assert len(list(tmp_path.iterdir())) == 2 * line.count("out.onnx")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams(closed: str, tmp_path: Path) -> None:
    done = shell(f"onnxprune {CNN} out.onnx --no-latency {closed}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.onnx").exists()
    assert shell(f"onnxprune {CNN} out.onnx {closed}", tmp_path).returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("command", ["criteria", f"inspect {CNN} --json -"])
def test_a_full_disk_behind_stdout_is_an_error(command: str, tmp_path: Path) -> None:
    done = shell(f"onnxprune {command} > /dev/full", tmp_path)
    assert (done.returncode, messages(done.stderr)) == (3, "error: stdout cannot be written: No space left on device\n")


def test_a_console_of_ascii_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "ö.onnx").write_bytes(CNN.read_bytes())
    done = shell("onnxprune bench ö.onnx --pairs 10 --seconds 0.1 --json r.json", tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert r"\xf6.onnx" in done.stdout
    done = shell("onnxprune inspect ö.onnx --json -", tmp_path, PYTHONIOENCODING="ascii")
    assert json.loads(done.stdout)["model"]["path"] == "ö.onnx"


def test_sigterm_ends_like_ctrl_c(tmp_path: Path) -> None:
    script = tmp_path / "data.py"
    script.write_text("import pathlib, time\npathlib.Path('started').touch()\ntime.sleep(60)\n")
    arguments = [sys.executable, "-m", "onnxprune", CNN, "out.onnx", "--calib", script]
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(arguments, cwd=tmp_path, env=variables, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "started").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert messages(process.communicate(timeout=30)[1]) == "error: terminated; nothing was left half-written\n"
    assert process.returncode == 143
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.py", "started"]


# --- how much is said -----------------------------------------------------------------------------------------------


def test_quiet_prints_errors_only(tmp_path: Path) -> None:
    result = run(CNN, tmp_path / "a.onnx", "--no-latency", "-q", "--json", tmp_path / "r.json")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert json.loads(run("inspect", CNN, "-q", "--json", "-").stdout)["command"] == "inspect"
    assert run("none.onnx", "-q").stderr.startswith("error: ")


QUIET = (
    "inspect net.onnx", "check net.onnx", "ops", "criteria", "doctor", "schema", "report r.json", "expand net.onnx plain.onnx",
    "bench net.onnx --pairs 10 --seconds 0.1", "validate net.onnx net.onnx --data x.npz", "net.onnx small.onnx --no-latency --plan p.json",
    "apply p.json net.onnx again.onnx --no-latency", "sensitivity net.onnx --calib x.npz --samples 16 --include stem*",
    "sweep net.onnx --ratios 0.5 --eval x.npz --repairs none", "stats net.onnx --calib x.npz --criterion wanda -o s.npz",
    "run a --config jobs.toml", "completion bash",
)  # fmt: skip
"""A line for every command; what comes to stdout of those that print a document is that."""


@pytest.mark.parametrize("more", ["-q", "-v"])
def test_every_command_knows_quiet_and_verbose(more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.onnx").write_bytes(CNN.read_bytes())
    (tmp_path / "x.npz").write_bytes((CNN.parent / "digits_calib.npz").read_bytes())
    (tmp_path / "jobs.toml").write_text('[jobs.a]\ncommand = "check"\nmodel = "net.onnx"\n')
    (tmp_path / "r.json").write_text(run("inspect", "net.onnx", "--json", "-").stdout)
    for line in QUIET:
        result = run(*line.split(), more)
        document = line.split()[0] in ("schema", "completion")
        assert result.exit_code == 0, (line, result.stderr)
        if more == "-q":
            assert (result.stdout == "", result.stderr) == (not document, ""), line
        else:
            assert result.stdout, line
            works = line.split()[0] not in ("ops", "criteria", "doctor", "schema", "report", "completion")
            assert ("starting" in result.stderr and " s  " in result.stderr) == works, line


def test_verbose_says_more_on_stderr(tmp_path: Path) -> None:
    plain, more = (
        run(CNN, tmp_path / f"{n}.onnx", "--no-latency", "--ratio", "0.03", "--round-to", "1", *n) for n in ([], ["-v"])
    )
    assert messages(plain.stderr) == ""
    assert [line.split("s  ")[1] for line in more.stderr.splitlines() if "s  " in line][:3] == [
        "starting",
        "reading the model",
        "finding what can be cut",
    ]
    assert [line.partition(":")[0] for line in more.stderr.splitlines()[-3:]] == [
        "options",
        "seconds",
        "memory at its peak",
    ]
    assert "--ratio 0.03 --no-latency --round-to 1" in more.stderr


def test_a_long_run_says_now_and_then_what_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.cli.progress.EVERY", 0.02)
    script = tmp_path / "data.py"
    script.write_text("import numpy, time\ntime.sleep(0.3)\nload_data = lambda: numpy.zeros((8, 1, 8, 8), 'f')\n")
    arguments = [CNN, "--dry-run", "--no-latency", "--calib", script, "--criterion", "l2", "--repair", "none"]
    assert len(run(*arguments).stderr.splitlines()) >= 5
    assert "s  reading the model" in run(*arguments).stderr
    assert run(*arguments, "-q").stderr == ""


@pytest.mark.parametrize(
    "words",
    [
        ["-v", "inspect", CNN],
        ["--json", "r.json", "inspect", CNN],
        ["--granularity", "heads", "--no-color", "inspect", CNN],
        ["--threads=2", "bench", CNN, "--pairs", "10", "--seconds", "0.1"],
    ],
)
def test_a_command_after_options_is_a_command(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words).exit_code == 0
    assert not list(tmp_path.glob("*.onnx"))


def test_options_before_the_model_stay_options_of_prune(tmp_path: Path) -> None:
    result = run("--ratio", "0.25", "-o", tmp_path / "inspect", "--no-latency", CNN)
    assert result.exit_code == 0
    assert (tmp_path / "inspect").exists()


@pytest.mark.parametrize("width", [40, 80])
def test_numbers_stay_in_one_piece(width: int, tmp_path: Path) -> None:
    result = run(CNN, tmp_path / "a.onnx", "--no-latency", env={"COLUMNS": str(width)})
    for number in ("228,530", "5,527,808", "927,451"):
        assert number in result.stdout


@pytest.mark.parametrize("width", [40, 60, 80])
@pytest.mark.parametrize("command", ["net.onnx a.onnx --no-latency", "inspect net.onnx", "criteria"])
def test_no_word_is_cut(command: str, width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the width, tables say the same words: those of a terminal that is wide enough."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.onnx").write_bytes(CNN.read_bytes())
    wide, narrow = (
        run(*command.split(), "--force" if "a.onnx" in command else "-v", env={"COLUMNS": str(w)}) for w in (400, width)
    )
    assert wide.exit_code == narrow.exit_code == 0, narrow.stderr

    def words(text: str) -> set[str]:
        return {word.strip(",") for word in re.sub("[─│]", " ", text).split() if len(word) <= 20}

    assert words(wide.stdout) - words(narrow.stdout) == set()
    tables = [line for line in narrow.stdout.splitlines() if line.startswith("  ") and "->" not in line]
    assert tables and max(map(len, tables)) <= width


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OutputError("r.json cannot be written"), 3, "r.json cannot be written"),
        (TargetError("out of reach", 7.0), 4, "out of reach"),
        (KeyboardInterrupt(), 130, "interrupted; nothing was left half-written"),
        (Terminated(), 143, "terminated; nothing was left half-written"),
        (MemoryError("Unable to allocate 8 TiB"), 3, "out of memory (Unable to allocate 8 TiB); where data is given"),
        (SystemExit(0), 3, "sys.exit(0)"),
        (OSError(36, "File name too long", "aaa"), 3, "aaa: File name too long"),
        (ZeroDivisionError("by zero\nmore"), 3, "unexpected ZeroDivisionError: by zero (run again with -v"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_every_error_has_its_words_and_its_exit_code(error: BaseException, code: int, words: str) -> None:
    """Only what nobody thought of asks to be reported; advice names what helps in every case it is printed in."""
    found = failure(error)
    assert (found.exit_code, words in found.message) == (code, True), found.message
    assert ("report it" in found.message) == isinstance(error, ZeroDivisionError)
    assert found.best == getattr(error, "best", None)
