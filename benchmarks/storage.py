"""What --storage does to files: bytes, time and memory to load, time to run, equality. Figures of docs/storage.md.

    python benchmarks/storage.py forms
    python benchmarks/storage.py models --shared SHARED
    python benchmarks/storage.py sentences --encoder minilm.onnx --tokenizer tokenizer.json

``forms``: one weight of 1024 x 4096 with shares of zeros. ``models``: networks whose weights of two axes or more lose a share of
their least magnitudes, which makes zeros and no good network; what storage adds to that is what is measured. ``sentences``: the same of a
sentence encoder, on docstrings of Python's standard library: 256 calibrate, 256 of other modules judge.
"""

from __future__ import annotations

import argparse
import re
import resource
import sysconfig
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper, numpy_helper
from quality.cases import CASES
from quality.sentences import LENGTH, sentences

import onnxprune
from onnxprune.data import TextOptions
from onnxprune.model.memory import peak_rss
from onnxprune.model.read import load

LEVELS = {
    "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
STORAGES = ("fp16", "codebook", "codebook:16", "packed", "packed:16", "packed:256", "auto")
Feeds = Mapping[str, np.ndarray]


def opened(model: ModelProto, level: str = "all", *, prepacked: bool = True) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level, options.intra_op_num_threads = LEVELS[level], 1
    if not prepacked:
        options.add_session_config_entry("session.disable_prepacking", "1")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def equal(one: ModelProto, two: ModelProto, feeds: Feeds, *, prepacked: bool = True) -> str:
    """Return the levels at which two models give the same bits."""
    same = []
    for level in LEVELS:
        found = [opened(model, level, prepacked=prepacked).run(None, dict(feeds)) for model in (one, two)]
        if all(a.tobytes() == b.tobytes() for a, b in zip(*found, strict=True)):
            same.append(level)
    return "all" if len(same) == len(LEVELS) else " ".join(same) or "none"


def least_ms(act: Any, count: int) -> float:
    """Return the least milliseconds of CPU time of several turns."""
    found = []
    for _ in range(count):
        start = time.thread_time()
        act()
        found.append(time.thread_time() - start)
    return 1e3 * min(found)


def with_zeros(model: ModelProto, share: float) -> ModelProto:
    """Return a copy in which so large a share of the least magnitudes of every matrix and kernel is zero."""
    result = ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim < 2 or array.dtype != np.float32 or array.size < 256:
            continue
        array = array.copy()
        order = np.argsort(np.abs(array), axis=None, kind="stable")
        array.reshape(-1)[order[: int(share * array.size)]] = 0
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return result


# --- one weight ---------------------------------------------------------------------------------------------------------


def single(share: float) -> ModelProto:
    weight = (np.random.default_rng(0).standard_normal((1024, 4096)) * 0.05).astype(np.float32)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, s]) for n, s in (("x", 1024), ("y", 4096)))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [numpy_helper.from_array(weight, "w")]
    )
    return with_zeros(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), share)


def forms() -> None:
    print("| zeros | storage | form | file MB | zipped MB | load ms | peak load MB | run ms | equal |")
    print("|---|---|---|---|---|---|---|---|---|")
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 1024)).astype(np.float32)}
    for share in (0.0, 0.5, 0.7, 0.9):
        model = single(share)
        row(f"{share:.0%}", "plain", "-", model, model, feeds)
        seen = set[str]()
        for storage in STORAGES:
            found = onnxprune.prune(model, ratio=0, storage=storage, latency=False)
            form = found.report["storage"][0]["form"]
            if form not in seen:
                row(f"{share:.0%}", storage, form, found.model, onnxprune.expand(found.model).model, feeds)
            seen.add(form)


def row(share: str, storage: str, form: str, model: ModelProto, plain: ModelProto, feeds: Feeds) -> None:
    content = model.SerializeToString()
    session = opened(model)
    loading = least_ms(lambda: opened(model), 3)
    running = least_ms(lambda: session.run(None, dict(feeds)), 30)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        memory = peak_rss(load(path), feeds)
    taken = (memory["peak"] - memory["idle"]) / 1e6
    sizes = f"{len(content) / 1e6:.2f} | {len(zlib.compress(content, 9)) / 1e6:.2f}"
    same = f"{equal(model, plain, feeds)} (not prepacked: {equal(model, plain, feeds, prepacked=False)})"
    print(
        f"| {share} | {storage} | {form} | {sizes} | {loading:.0f} | {taken:.0f} | {running:.2f} | {same} |", flush=True
    )


# --- networks ------------------------------------------------------------------------------------------------------------


def networks(shared: Path | None) -> None:
    print("| network | zeros | storage | share of bytes | of its matrices | CPU s | top-1, before -> after | equal |")
    print("|---|---|---|---|---|---|---|---|")
    for case in CASES:
        if not case.bundled and (shared is None or case.name != "resnet56_cifar10"):
            continue
        (images, _), (test, labels) = (case.load(file, shared or Path()) for file in (case.calibration, case.test))
        for share in (0.0, 0.5, 0.7):
            model = with_zeros(onnx.load(case.model(shared or Path())), share)
            for storage in ("fp16", "auto", "codebook:16", "packed:16"):
                found, cells = stored(model, storage, calibration=images[:512])
                quality = " -> ".join(accuracy([model, found.model], test, labels))
                same = equal(
                    found.model, onnxprune.expand(found.model).model, {inputs(model)[0]: test[:64]}, prepacked=False
                )
                print(f"| {case.name} | {share:.0%} | {storage} | {cells} | {quality} | {same} |", flush=True)


def inputs(model: ModelProto) -> list[str]:
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in stored]


def stored(model: ModelProto, storage: str, **options: Any) -> tuple[Any, str]:
    """Return the result, and cells: share of bytes, of those of the tensors that changed, CPU seconds."""
    start = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    found = onnxprune.prune(model, ratio=0, storage=storage, latency=False, **options)
    seconds = sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - start
    rows = [row for row in found.report["storage"] if row["status"] == "packed"]
    own = sum(row["bytes_after"] for row in rows) / max(sum(row["bytes_before"] for row in rows), 1)
    whole = found.report["after"]["bytes"] / found.report["before"]["bytes"]
    return found, f"{whole:.3f} | {own:.3f} | {seconds:.1f}"


def encoder(path: Path, tokenizer: Path) -> None:
    """Look at a sentence encoder whose linear layers alone have zeros."""
    print(
        "| zeros | storage | share of bytes | of its linear layers | CPU s | cosine to the model with zeros | equal |"
    )
    print("|---|---|---|---|---|---|---|")
    modules = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    half = len(modules) // 2
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("calibration.txt", "judged.txt")]
        for file, part in zip(files, (modules[:half], modules[half:]), strict=True):
            file.write_text("\n".join(sentences(part, 256, 0)))
        for share in (0.0, 0.5):
            model = with_zeros(onnx.load(path), share)
            for storage in ("auto", "codebook:16", "packed:16"):
                text = TextOptions(tokenizer, LENGTH)
                found, cells = stored(model, storage, calibration=files[0], evaluation=files[1], text=text)
                layers = [
                    row
                    for row in found.report["storage"]
                    if "embeddings" not in row["name"] and row["status"] == "packed"
                ]
                own = sum(row["bytes_after"] for row in layers) / sum(row["bytes_before"] for row in layers)
                cells = re.sub(r" [0-9.]+ \|", f" {own:.3f} |", cells, count=1)
                drift = next(iter(found.report["drift"]["outputs"].values()))["cosine"]
                same = equal(found.model, onnxprune.expand(found.model).model, drawn(model), prepacked=False)
                print(f"| {share:.0%} | {storage} | {cells} | {drift:.4f} | {same} |", flush=True)


def accuracy(models: list[ModelProto], images: np.ndarray, labels: np.ndarray) -> Iterator[str]:
    for model in models:
        session = opened(model)
        (name,) = (value.name for value in session.get_inputs())
        if model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1:
            found = np.concatenate([session.run(None, {name: image[None]})[0] for image in images])
        else:
            found = session.run(None, {name: images})[0]
        yield f"{np.mean(found.argmax(1) == labels):.2%}"


def drawn(model: ModelProto) -> dict[str, np.ndarray]:
    """Draw token numbers, masks of ones, no types."""
    names = [value.name for value in model.graph.input]
    tokens = np.random.default_rng(0).integers(1000, 20000, (8, LENGTH))
    return {n: np.ones_like(tokens) if "mask" in n else np.zeros_like(tokens) if "type" in n else tokens for n in names}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("forms", "models", "sentences"))
    parser.add_argument("--shared", type=Path, help="folder with models/ and data/cifar10/")
    parser.add_argument("--encoder", type=Path, help="a sentence encoder of two or three inputs of token numbers")
    parser.add_argument("--tokenizer", type=Path, help="its tokenizer.json")
    given = parser.parse_args()
    if given.what == "forms":
        forms()
    elif given.what == "models":
        networks(given.shared)
    else:
        encoder(given.encoder, given.tokenizer)
