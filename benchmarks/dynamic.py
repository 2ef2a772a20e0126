"""What --dynamic gives: accuracy with the gate active, how often the original runs, mean latency of single images. Figures of docs/dynamic.md.

    python benchmarks/dynamic.py --shared SHARED --target macs=40% --recover 300 --budget macs=52%

ResNet-56 on CIFAR-10: 4,660 training images calibrate, train and teach the gate, without labels. Judged on images that decided nothing: 423
test images, and 5,000 others re-encoded as JPEG, which the network was not trained for, so that the original is often wrong there.
Times: stock ONNX Runtime, one thread, one image at a time, both models in turns, CPU time; the median over rounds of each image, the mean over images.
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
from onnxprune.model.gated import asking_value
from onnxprune.model.model import Model

NAME = "resnet56_cifar10"
TIMED, ROUNDS = 200, 9


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
    """Return mean microseconds of an image by both, and their ratio."""
    sessions = [opened(original), opened(model.proto.SerializeToString())]
    found = np.zeros((2, ROUNDS + 1, len(images)))
    for turn in range(ROUNDS + 1):  # the first warms up
        for number, image in enumerate(images):
            for which in (0, 1) if (turn + number) % 2 else (1, 0):
                start = time.thread_time()
                sessions[which].run(None, {"input": image[None]})
                found[which, turn, number] = time.thread_time() - start
    before, after = (np.median(one[1:], axis=0).mean() * 1e6 for one in found)
    return {"before": before, "after": after, "ratio": after / before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--granularity", default="heads")
    parser.add_argument("--target", default="macs=40%")
    parser.add_argument("--recover", default="400")
    parser.add_argument("--budget", default="macs=60%")
    parser.add_argument("--output", type=Path, help="Where to write the model.")
    given = parser.parse_args()
    case = next(case for case in CASES if case.name == NAME)
    path = str(case.model(given.shared))
    calibration = case.load(case.calibration, given.shared)[0]
    sets = {name: case.load(name, given.shared) for name in (case.test, "jpeg_test.npz")}
    result = onnxprune.prune(
        path, granularity=given.granularity, target=given.target, recover=given.recover, dynamic=given.budget,
        calibration={"input": calibration}, latency=False, output=given.output, force=True,
    )  # fmt: skip
    row = {"granularity": given.granularity, "target": given.target, "budget": given.budget}
    row |= {"macs": result.report["dynamic"]["macs"], "bytes": result.report["after"]["bytes"]}
    row |= {name: judged(path, result.pruned, *data) for name, data in sets.items()}
    row["latency"] = timed(path, result.pruned, sets[case.test][0][:TIMED])
    row["seconds"] = result.report["seconds"]
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
