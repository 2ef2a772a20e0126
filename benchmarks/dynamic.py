"""What --dynamic gives: accuracy with the gate active, how often the original runs, mean latency of single images. Figures of docs/dynamic.md.

    python benchmarks/dynamic.py --shared SHARED --output dynamic.onnx          # the recipe of the page, about 6 CPU minutes, then the figures
    python benchmarks/dynamic.py --shared SHARED --judge dynamic.onnx            # the figures of a file that was written before

ResNet-56 on CIFAR-10: 4,660 training images calibrate, train and teach the gate, without labels. Judged on images that decided nothing: 423
test images, and 5,000 others re-encoded as JPEG, which the network was not trained for, so that the original is often wrong there.
Times: stock ONNX Runtime, one thread, one image at a time, the models in turns, CPU time; the median over rounds of each image, the mean over images;
all of it REPEATS times. `fast` and `full` are the file with its gate shut and held open.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from quality.cases import CASES

import onnxprune
from onnxprune.model.gated import EVERY, NO, asking_value, forced
from onnxprune.model.model import Model
from onnxprune.model.read import load

NAME = "resnet56_cifar10"
ROUNDS, REPEATS = 3, 3


def opened(content: bytes | str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def answers(session: ort.InferenceSession, images: np.ndarray, outputs: list[str], batch: int) -> list[np.ndarray]:
    """Return every output over all images, a batch at a time."""
    parts = [session.run(outputs, {"input": images[at : at + batch]}) for at in range(0, len(images), batch)]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def judged(original: str, model: Model, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return accuracy of both, agreement and the share of full passes: one image at a time, as the latency is."""
    proto, asks = model.proto, asking_value(model)
    proto.graph.output.add(name=asks)
    (before,) = answers(opened(original), images, ["logits"], 64)
    after, asked = answers(opened(proto.SerializeToString()), images, ["logits", asks], 1)
    one, two = before.argmax(1), after.argmax(1)
    return {
        "images": len(images),
        "before": float((one == labels).mean()),
        "after": float((two == labels).mean()),
        "agreement": float((one == two).mean()),
        "full_share": float(asked.mean()),
    }


def timed(original: str, model: Model, images: np.ndarray) -> dict[str, float]:
    """Return the original's mean microseconds of an image, and what share of them the file takes: as it is, gate shut, gate open."""
    ways = [model.proto, forced(model, NO).proto, forced(model, EVERY).proto]
    sessions = [opened(original), *(opened(way.SerializeToString()) for way in ways)]
    found = np.zeros((len(sessions), ROUNDS + 1, len(images)))
    for turn in range(ROUNDS + 1):  # the first warms up
        for number, image in enumerate(images):
            for place in range(len(sessions)):
                which = (turn + number + place) % len(sessions)
                start = time.thread_time()
                sessions[which].run(None, {"input": image[None]})
                found[which, turn, number] = time.thread_time() - start
    means = np.median(found[:, 1:], axis=1).mean(1) * 1e6
    return {"original_us": means[0]} | dict(zip(("gated", "fast", "full"), means[1:] / means[0], strict=True))


def pruned(path: str, calibration: np.ndarray, given: argparse.Namespace) -> tuple[Model, dict[str, Any]]:
    """Return the file with its gate, and what the report says of it."""
    result = onnxprune.prune(
        path, granularity=given.granularity, target=given.target, recover=given.recover, dynamic=given.budget,
        calibration={"input": calibration}, latency=False, output=given.output, force=True,
    )  # fmt: skip
    found = result.report["dynamic"]
    row = {"granularity": given.granularity, "target": given.target, "budget": given.budget}
    row |= {"macs": found["macs"], "taught": found["full_share"]["taught"], "bytes": result.report["after"]["bytes"]}
    return result.pruned, row | {"seconds": result.report["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--granularity", default="heads")
    parser.add_argument("--target", default="macs=40%")
    parser.add_argument("--recover", default="300")
    parser.add_argument("--budget", default="macs=50%")
    parser.add_argument("--output", type=Path, help="Where to write the model.")
    parser.add_argument("--judge", type=Path, help="A model that was written before; nothing is pruned.")
    given = parser.parse_args()
    case = next(case for case in CASES if case.name == NAME)
    path = str(case.model(given.shared))
    sets = {name: case.load(name, given.shared) for name in (case.test, "jpeg_test.npz")}
    if given.judge:
        model, row = load(given.judge), {"model": given.judge.name}
    else:
        model, row = pruned(path, case.load(case.calibration, given.shared)[0], given)
    row |= {name: judged(path, model, *data) for name, data in sets.items()}
    row["latency"] = [timed(path, model, sets[case.test][0]) for _ in range(REPEATS)]
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
