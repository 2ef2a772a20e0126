"""What the layout in which ONNX Runtime computes costs the passes of --dynamic. Figures of docs/dynamic.md.

    python benchmarks/body.py --shared SHARED

ResNet-56 with its norms folded in, as most exports are: alone, and as the full pass behind a gate that is held open, with and without constants
of its own. The time of the same file with its gate shut, which is that of the fast pass, is taken off. Then the model as it is, and
with what is padded in front of its sums brought into blocks. Stock ONNX Runtime, one thread, CPU time, in turns, medians.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime as ort
from quality.cases import CASES

from onnxprune.changes.analysing import facts_of
from onnxprune.changes.dynamic import joining
from onnxprune.changes.dynamic.joining import Joining, Passes, outputs_taken
from onnxprune.changes.dynamic.layout import blocked_shortcuts
from onnxprune.model.gated import EVERY, NO, forced
from onnxprune.model.model import Model
from onnxprune.model.read import load
from onnxprune.settings import Settings

NAME, ROUNDS, WARM = "resnet56_cifar10", 60, 5


def folded(path: Path) -> Model:
    """Return a model whose norms ONNX Runtime has folded into its convolutions."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder, "folded.onnx"))
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return Model.of(load(options.optimized_model_filepath).proto)


def behind_a_gate(model: Model) -> Model:
    """Return the model as the full pass behind one of its own size that shares nothing with it."""
    other = model.replaced(
        {n: w.read() * np.float32(0.9) for n, w in model.weights.items() if w.read().dtype == np.float32}
    )
    into = Joining(Passes(other, model), outputs_taken(["logits"], facts_of(model, Settings())))
    return into.guarded(into.add("ReduceMax", [into.called("logits")], "score", axes=[1], keepdims=1), 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    path = next(case for case in CASES if case.name == NAME).model(parser.parse_args().shared)
    model, plain = folded(path), load(path)
    files = {"alone": model, "as it is": plain, "sums in blocks": blocked_shortcuts(plain, Settings())}
    for name, operators in (("reading around the body", frozenset[str]()), ("constants of the body", joining.BLOCKED)):
        joining.BLOCKED = operators  # type: ignore[misc]
        gated = behind_a_gate(model)
        files |= {name: forced(gated, EVERY), f"{name}, shut": forced(gated, NO)}
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = [ort.InferenceSession(file.proto.SerializeToString(), options) for file in files.values()]
    feed = {"input": np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)}
    found = np.zeros((ROUNDS, len(sessions)))
    for turn in range(ROUNDS):
        for place in range(len(sessions)):
            which = (turn + place) % len(sessions)
            start = time.thread_time()
            sessions[which].run(None, feed)
            found[turn, which] = time.thread_time() - start
    times = dict(zip(files, np.median(found[WARM:], axis=0) * 1e6, strict=True))
    for name in files:
        if not name.endswith("shut"):
            print(f"{name}: {times[name] - times.get(f'{name}, shut', 0):,.0f} us")


if __name__ == "__main__":
    main()
