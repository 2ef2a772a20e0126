"""No run writes what it reads, nor a document over something else; all of that is found before any work."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from support.networks import network

import onnxprune
import onnxprune.api
from onnxprune.cli import main
from onnxprune.cli.app import Application
from onnxprune.cli.values import SCRIPT, File
from onnxprune.errors import OnnxPruneError, OutputError, UsageError
from onnxprune.model.paths import DOCUMENTS, FOLDERS, READ, WRITTEN, check_document
from onnxprune.report.documents import render

USAGE = 2
BODY = "w1 = %6x3x1x1; b1 = %6; p = Conv(x, w1, b1); r = Relu(p); w2 = %5x6x1x1; y = Conv(r, w2)"
LIKE_0_1_0 = {
    "json": '{\n "schema_version": 1,\n "command": "prune",\n "exit_code": 0\n}\n',
    "markdown": "# onnxprune prune\n\n10 of 20 channels\n",
    "junit": "<?xml version='1.0' encoding='us-ascii'?>\n<testsuites name=\"onnxprune\" tests=\"1\">\n</testsuites>\n",
    "html": '\n<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>onnxprune prune</title>\n',
    "model-explorer": '{\n "generator": "onnxprune",\n "results": {}\n}\n',
    "plan": '{\n"schema_version": 1,\n"model_sha256": "0",\n"settings": {},\n"groups": [\n],\n"kept": {\n}\n}\n',
}
FOREIGN = {
    "notes.txt": b"my notes\n",
    "notes.md": b"# onnxprune notes\n\nwhat I tried\n",
    "page.html": b"<html><head><title>my onnxprune</title></head></html>",
    "other.json": b'{"results": {"conv1": {"value": 1}}}',
    "other.xml": b'<testsuites name="onnxprune-tests"></testsuites>',
    "tests.xml": b'<testsuites name="pytest"></testsuites>',
    "data.json": b'{"schema_version": 1, "mine": true}',
    "list.json": b"[1, 2]",
    "deep.json": b"[" * 100_000,
    "half.json": b'{"schema_version": 1, "command": ',
    "binary": bytes(range(256)),
}


def run(*arguments: str | os.PathLike[str]) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with what a run may read."""
    onnx.save(network(BODY), tmp_path / "net.onnx")
    (tmp_path / "rows").mkdir()
    for path in (tmp_path / "x.npy", tmp_path / "rows" / "x.npy", tmp_path / "eval.npy"):
        np.save(path, np.zeros((8, 3, 4, 4), np.float32))
    np.save(tmp_path / "labels.npy", np.zeros(8, np.int64))
    (tmp_path / "base.json").write_text(LIKE_0_1_0["json"])
    (tmp_path / "options.toml").write_text("seed = 1\n")
    shutil.copy(tmp_path / "net.onnx", tmp_path / "early.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(work: Path, *arguments: str, words: str = "choose another name") -> str:
    """The command ends with exit code 2 and leaves every file as it was."""
    before = content(work)
    result = run(*arguments)
    assert result.exit_code == USAGE, result.output
    assert words in " ".join(result.stderr.split()), result.stderr
    assert content(work) == before
    return result.stderr


# --- documents replace documents only -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["json", "markdown", "junit", "html", "model-explorer", "plan"])
def test_documents_replace_nothing_else(work: Path, kind: str) -> None:
    for name, text in FOREIGN.items():
        (work / name).write_bytes(text)
        for more in ([], ["--force"]):
            refused(work, "net.onnx", f"--{kind}", name, *more, words="exists")
    others = [text for other, text in LIKE_0_1_0.items() if other != kind]
    for text in others:
        (work / "other").write_text(text)
        refused(work, "net.onnx", f"--{kind}", "other", "--force", words="exists and is not")


def test_a_model_among_the_documents_is_refused_while_parsing(work: Path) -> None:
    """Also where MODEL is missing, so that a failure would be reported."""
    for model in ("net.onnx", "absent.onnx"):
        refused(work, "--json", "early.onnx", model, words="a model's name; --json takes the name of a JSON report")
    (work / "model").write_bytes((work / "net.onnx").read_bytes())
    refused(work, "--json", "model", "absent.onnx", words="exists and is not a JSON report")


@pytest.mark.parametrize("kind", ["json", "markdown", "junit", "html", "model_explorer"])
def test_documents_replace_their_own_kind(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "document"
    failed = {"schema_version": 1, "command": "prune", "exit_code": 3, "error": "x"}
    for text in (LIKE_0_1_0[kind.replace("_", "-")], render(kind, onnxprune.api.operators()), render(kind, failed), ""):
        path.write_text(text)
        check_document(path, kind)


def test_a_pipeline_runs_again(work: Path) -> None:
    command = ["net.onnx", "small.onnx", "--force", "--no-latency", "--calib", "x.npy", "--criterion", "l2",
               *("--json", "r.json", "--markdown", "r.md", "--junit", "r.xml", "--plan", "p.json")]  # fmt: skip
    for _ in range(2):
        result = run(*command)
        assert result.exit_code == 0, result.output
    assert json.loads((work / "r.json").read_text())["exit_code"] == 0
    failed = run("absent.onnx", "--json", "r.json")
    assert failed.exit_code == 3
    assert "absent.onnx" in json.loads((work / "r.json").read_text())["error"]
    assert run("ops", "--json", "r.json").exit_code == 0


def test_a_foreign_checkpoint_is_found_first(work: Path) -> None:
    before = (work / "labels.npy").read_bytes()
    for name in ("x.npy", "base.json"):
        refused(
            work, "net.onnx", "--calib", "eval.npy", "--recover", "1", "--checkpoint", name, words="not a checkpoint"
        )
    shutil.copy(work / "x.npy", work / "state.2")
    options = ["--recover", "1", "--checkpoint", "state", "--schedule", "linear:2"]
    refused(
        work, "net.onnx", "--calib", "eval.npy", *options, words="checkpoint state.2 exists and is not a checkpoint"
    )
    assert (work / "labels.npy").read_bytes() == before


def test_what_cannot_be_written_is_found_first(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the run began")

    monkeypatch.setattr("onnxprune.api.prune", never)
    for option in ("--json", "--markdown", "--plan"):
        for place, code in (("no/r.json", (2, 3)), ("/proc/r.json", (3,)), ("rows", (2,)), ("n" * 300, (2,))):
            result = run("net.onnx", option, place)
            assert result.exit_code in code, (option, place, result.output)
            assert "unexpected" not in result.output


def test_a_document_that_fails_late_says_that_the_model_is_there(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(text: str, path: object) -> None:
        raise OutputError(f"{path} cannot be written: No space left on device")

    monkeypatch.setattr("onnxprune.model.write.write_text", full)
    for option in ("--json", "--plan"):
        result = run("net.onnx", "small.onnx", "--force", "--no-latency", option, "new")
        assert result.exit_code == 3
        assert "No space left on device. The model small.onnx was written before" in result.stderr


# --- what is read is never written ----------------------------------------------------------------------------------

READERS: dict[str, tuple[list[str], str]] = {
    "model": ([], "net.onnx"),
    "calib": (["--calib", "x.npy"], "x.npy"),
    "calib folder": (["--calib", "rows"], "rows/x.npy"),
    "eval": (["--eval", "eval.npy"], "eval.npy"),
    "labels": (["--eval", "eval.npy", "--labels", "labels.npy"], "labels.npy"),
    "rewind": (["--rewind", "early.onnx"], "early.onnx"),
    "baseline": (["--baseline", "base.json"], "base.json"),
    "config": (["--config", "options.toml"], "options.toml"),
}
LINKS: dict[str, Callable[[Path], object]] = {
    "itself": lambda path: None,
    "by another name": lambda path: None,
    "link": lambda path: Path("link").symlink_to(path),
    "hard link": lambda path: os.link(path, "link"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("link", LINKS)
def test_the_output_is_nothing_that_is_read(work: Path, reader: str, link: str) -> None:
    options, path = READERS[reader]
    LINKS[link](Path(path))
    written = {"itself": path, "by another name": str(work / "rows" / ".." / path)}.get(link, "link")
    refused(work, "net.onnx", *options, "--force", "-o", written)


@pytest.mark.parametrize("option", ["--json", "--plan"])
def test_a_document_is_no_document_that_is_read(work: Path, option: str) -> None:
    """Each could be replaced by its kind."""
    if option == "--json":
        refused(work, "net.onnx", "--baseline", "base.json", "--json", "base.json", words="read as the baseline")
        refused(work, "report", "base.json", "--json", "base.json", words="a report that is joined")
        refused(work, "base.json", "--json", "base.json", words="is the input file")
        refused(work, "base.json", "--json", "base.json", "--config", "options.toml", words="is the input file")
        refused(work, "report", "base.json", "--json", "base.json", "--html", "x.npy", words="--html")
    else:
        (work / "plan.json").write_text(LIKE_0_1_0["plan"])
        refused(work, "apply", "plan.json", "net.onnx", "--plan", "plan.json", "--force", words="the plan that is")


@pytest.mark.parametrize(
    "written",
    [
        ["-o", "new", "--json", "new"],
        ["-o", "new", "--plan", "./new"],
        ["--json", "new", "--markdown", "new"],
        ["--recover", "1", "--checkpoint", "new", "--json", "new"],
        ["--json", "net.pruned.onnx"],
        ["--cache", "rows", "--json", "rows"],
        ["--cache", "rows", "--criterion", "taylor"],
        ["--cache", "x.npy"],
        ["--cache", "/dev/cache"],
        ["--recover", "1", "--checkpoint", "rows/state.npz"],
    ],
    ids=" ".join,
)
def test_two_written_paths_are_two(work: Path, written: list[str]) -> None:
    refused(work, "net.onnx", "--calib", "rows", *written, words=";")


def test_a_link_to_a_file_that_is_not_there_yet(work: Path) -> None:
    (work / "link").symlink_to("new")
    refused(work, "net.onnx", "-o", "new", "--json", "link", words="are one file")


@pytest.mark.parametrize("name", ["weights.bin", "link"])
def test_the_output_is_no_data_of_the_model(work: Path, name: str) -> None:
    onnx.save(network(BODY), work / "large.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    if name == "link":
        os.link(work / "weights.bin", work / "link")
    refused(work, "large.onnx", "-o", name, "--force", words="holds weights of large.onnx")
    refused(work, "net.onnx", "--rewind", "large.onnx", "-o", name, "--force", words="holds weights of large.onnx")
    before = content(work)
    with pytest.raises(UsageError, match="holds weights"):
        onnxprune.prune("large.onnx", output=name, force=True)
    with pytest.raises(UsageError, match="holds weights"):
        onnxprune.save(onnxprune.load("large.onnx"), work / name, force=True)
    assert content(work) == before


def test_the_output_is_no_data_of_a_constant(work: Path) -> None:
    """Which is taken in when the model is read."""
    proto = network("a = @[2,6]; w1 = %6x3x1x1; p = Conv(x, w1); w2 = %5x6x1x1; y = Conv(p, w2)")
    stored = proto.graph.initializer[0]
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["b"], value=stored))
    onnx.save(
        proto, "large.onnx", save_as_external_data=True, location="c.bin", size_threshold=0, convert_attribute=True
    )
    loaded = onnx.load("large.onnx", load_external_data=False)
    assert loaded.graph.node[0].attribute[0].t.data_location
    refused(work, "large.onnx", "-o", "c.bin", "--force", words="holds weights of large.onnx")
    with pytest.raises(UsageError, match="holds weights"):
        onnxprune.save(onnxprune.load("large.onnx"), "c.bin", force=True)


def test_force_leaves_the_data_of_the_input(work: Path) -> None:
    """It is called what version 0.1.0 called the output's data."""
    onnx.save(network(BODY), "original.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    shutil.copy("original.onnx", "model.onnx")
    before = content(work)
    for _ in range(2):
        result = run("original.onnx", "-o", "model.onnx", "--force", "--no-latency")
        assert result.exit_code == 0, result.output
    assert {name: data for name, data in content(work).items() if name in before and name != "model.onnx"} == {
        name: data for name, data in before.items() if name != "model.onnx"
    }
    onnxprune.load("original.onnx")


def test_python_is_held_to_the_same(work: Path) -> None:
    before = content(work)
    for values in (
        {"output": "net.onnx"},
        {"output": "x.npy", "calibration": "x.npy"},
        {"output": work / "rows" / "x.npy", "calibration": "rows"},
        {"output": "eval.npy", "evaluation": Path("eval.npy")},
        {"output": "labels.npy", "evaluation": "x.npy", "labels": "labels.npy"},
        {"output": "base.json", "baseline": "base.json"},
        {"output": "new", "checkpoint": "new"},
        {"checkpoint": "labels.npy"},
        {"cache": "x.npy"},
    ):
        with pytest.raises(OnnxPruneError):
            onnxprune.prune("net.onnx", force=True, **values)
        assert content(work) == before
    with pytest.raises(UsageError):
        onnxprune.api.sweep("net.onnx", calibration="rows", folder="rows")
    assert content(work) == before


# --- jobs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        ({"a": {"output": "x.npy", "calib": "x.npy"}}, "read as --calib (job a)"),
        ({"a": {"output": "new.onnx"}, "b": {"output": "new.onnx"}}, "output (job a) and output (job b) are one file"),
        ({"a": {"output": "onnxprune.toml"}}, "onnxprune.toml is read as the configuration"),
        ({"a": {"output": "r.json"}}, "--json and output (job a) are one file"),
        ({"a": {"output": "n.onnx", "baseline": "r.json"}}, "--json r.json is read as the baseline (job a)"),
    ],
)  # fmt: skip
def test_jobs(work: Path, jobs: dict[str, dict[str, str]], words: str) -> None:
    lines = []
    for name, values in jobs.items():
        lines += [f"[jobs.{name}]", 'model = "net.onnx"', "force = true"]
        lines += [f'{key} = "{value}"' for key, value in values.items()]
    (work / "onnxprune.toml").write_text("\n".join(lines))
    (work / "r.json").write_text(LIKE_0_1_0["json"])
    refused(work, "run", "--json", "r.json", words=words)


def test_a_job_may_read_what_an_earlier_one_writes(work: Path) -> None:
    text = """
        [jobs.first]
        model = "net.onnx"
        output = "small.onnx"
        latency = false
        [jobs.second]
        command = "check"
        model = "small.onnx"
    """
    (work / "onnxprune.toml").write_text(text.replace("latency = false", "no-latency = true"))
    result = run("run", "--json", "r.json")
    assert result.exit_code == 0, result.output


def test_every_path_that_a_command_takes_is_settled() -> None:
    """An option for a path that no table knows would be written or read unchecked."""
    application = main
    assert isinstance(application, Application)
    known = {*READ, *WRITTEN, *FOLDERS}
    for name in application.list_commands(None):
        for parameter in import_module(f"onnxprune.cli.commands.{name}").command.params:
            if isinstance(parameter.type, File) or parameter.type is SCRIPT:
                assert parameter.name in known, f"{name}: {parameter.name}"
    kinds = {"json", "markdown", "junit", "html", "model_explorer", "model_explorer_macs"}
    assert set(DOCUMENTS) == kinds | {"plan", "checkpoint", "masks", "statistics"}


# --- devices --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--json", "--markdown", "--plan"])
def test_documents_go_into_devices(work: Path, option: str) -> None:
    (work / "null").symlink_to("/dev/null")
    before = os.stat("/dev/null")
    for place in ("/dev/null", "null"):
        result = run("net.onnx", "small.onnx", "--force", "--no-latency", option, place)
        assert result.exit_code == 0, result.output
    assert os.path.samestat(os.stat("/dev/null"), before)
    assert (work / "null").is_symlink()
    refused(work, "net.onnx", "-o", "/dev/null", "--force", words="a device; a model is written to a regular file")


@pytest.mark.parametrize(
    "arguments",
    [
        ["fifo"],
        ["net.onnx", "--config", "fifo"],
        ["net.onnx", "--baseline", "fifo"],
        ["net.onnx", "--calib", "fifo"],
        ["net.onnx", "--rewind", "fifo"],
        ["apply", "fifo", "net.onnx"],
        ["report", "fifo"],
        ["run", "--config", "fifo"],
        ["net.onnx", "--calib", "x.npy", "--recover", "1", "--checkpoint", "fifo"],
    ],
    ids=" ".join,
)  # fmt: skip
@pytest.mark.parametrize("kind", ["fifo", "zero"])
def test_nothing_waits_for_ever(work: Path, arguments: list[str], kind: str) -> None:
    os.mkfifo(work / "fifo") if kind == "fifo" else (work / "fifo").symlink_to("/dev/zero")
    result = run(*arguments)
    assert result.exit_code in (2, 3), result.output
    assert "not a regular file" in result.stderr
