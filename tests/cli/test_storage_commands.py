"""``--storage`` and ``expand`` on the command line: what is printed, written and refused."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from onnxprune.cli.app import main

MODEL = Path(__file__).parents[2] / "models" / "digits_cnn.onnx"
QUICK = ("--ratio", "0", "--no-latency")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    path = tmp_path_factory.mktemp("packed") / "small.onnx"
    return path, run(MODEL, path, *QUICK, "--storage", "fp16", "--json", path.with_suffix(".json"))


def test_a_run_says_how_tensors_are_stored(packed: tuple[Path, Result]) -> None:
    path, done = packed
    assert done.exit_code == 0, done.output
    assert "storage fp16: 15 fp16; rounded by at most" in " ".join(done.stdout.split())
    report = json.loads(path.with_suffix(".json").read_text())
    assert report["after"]["bytes"] == path.stat().st_size < 0.52 * report["before"]["bytes"]
    assert report["packing"]["load_seconds"] is None and len(report["storage"]) == 15


def test_expand_writes_plain_weights(packed: tuple[Path, Result], tmp_path: Path) -> None:
    done = run("expand", packed[0], tmp_path / "plain.onnx", "--json", "-")
    assert done.exit_code == 0 and len(json.loads(done.stdout)["expanded"]) == 15
    plain, original = onnx.load(tmp_path / "plain.onnx"), onnx.load(MODEL)
    assert [node.op_type for node in plain.graph.node] == [node.op_type for node in original.graph.node]
    again = run("expand", packed[0], tmp_path / "plain.onnx")
    assert again.exit_code == 2 and "add --force" in again.output
    forced = run("expand", packed[0], tmp_path / "plain.onnx", "--force", "--markdown", tmp_path / "report.md")
    assert forced.exit_code == 0 and "15 tensors were packed" in forced.stdout
    assert "bytes" in (tmp_path / "report.md").read_text()


def test_expand_of_a_plain_file_says_so(tmp_path: Path) -> None:
    done = run("expand", MODEL, tmp_path / "same.onnx")
    assert done.exit_code == 0 and "is packed: the result holds the same tensors" in done.output
    assert onnx.load(tmp_path / "same.onnx").graph == onnx.load(MODEL).graph


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("expand", MODEL), "OUT is missing"),
        (("expand", "nothing.onnx", "out.onnx"), "nothing.onnx"),
        ((MODEL, "--dry-run", "--storage", "pakced"), "did you mean 'packed'"),
        ((MODEL, "--dry-run", "--ratio", "0"), "more than 0"),
        ((MODEL, "--dry-run", "--storage", "auto", "--ratio", "0", "--target", "macs=50%"), "give one of ratio"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[object, ...], words: str) -> None:
    done = run(*arguments)
    assert done.exit_code in (2, 3) and words in done.output


def test_every_document_shows_it(packed: tuple[Path, Result], tmp_path: Path) -> None:
    done = run(
        MODEL,
        tmp_path / "s.onnx",
        *QUICK,
        "--storage",
        "auto",
        "--markdown",
        tmp_path / "r.md",
        "--html",
        tmp_path / "r.html",
    )
    assert done.exit_code == 0, done.output
    for document in ("r.md", "r.html"):
        assert "packed file" in (tmp_path / document).read_text()
