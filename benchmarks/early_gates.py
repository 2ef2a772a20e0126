"""Whether what a branch reads tells if a sample needs it: gates in front of the branches of ResNet-56, without any training of the network.

    python benchmarks/early_gates.py --shared SHARED

Runs of neighbouring branches are left out together; a linear map of the channels, fitted to what they give, and a ReLU stand in for them. The
predictor of --dynamic learns the damage from the pooled input of the run, on 1,000 training images. Printed, of 423 test images and of 2,000 re-encoded as
JPEG: the share that changes its class when the run is left out for the 40 %, 60 % and 100 % of them that are predicted to be damaged least.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import scipy
from onnx.utils import Extractor
from quality.cases import CASES

from onnxprune.changes.dynamic.predictor import GatePredictor

NAME, RUNS = "resnet56_cifar10", ((1, 5), (5, 9), (10, 14), (14, 18), (24, 27))
ROWS, JUDGED = 1000, 2000
SHARES = (0.4, 0.6, 1.0)


def parts_of(path: Path) -> Callable[[int, int, np.ndarray], np.ndarray]:
    """Return a function of (first branch, the one behind the last, what the first reads) that runs them; -1: from the pictures, -2: to the scores."""
    model = onnx.load(path)
    read = [node for node in model.graph.node if node.op_type == "Add"]
    relus = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "Relu"}
    ends = [relus[node.output[0]] for node in read if node.output[0] in relus]
    first = next(node.output[0] for node in model.graph.node if node.op_type == "Relu")
    names = [first, *ends]
    extractor = Extractor(onnx.shape_inference.infer_shapes(model))

    def run(start: int, stop: int, values: np.ndarray) -> np.ndarray:
        source = "input" if start == -1 else names[start]
        cut = extractor.extract_model([source], ["logits" if stop == -2 else names[stop]])
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(cut.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return np.concatenate(
            [session.run(None, {source: values[at : at + 64]})[0] for at in range(0, len(values), 64)]
        )

    return run


def stand_in(before: np.ndarray, after: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the ReLU of the linear map of channels that is nearest to ``after``."""
    x, y = (np.moveaxis(one, 1, -1).reshape(-1, one.shape[1]).astype(np.float64) for one in (before, after))
    x = np.hstack([x, np.ones((len(x), 1))])
    weights = np.linalg.solve(x.T @ x + 1e-6 * len(x) * np.eye(x.shape[1]), x.T @ y).astype(np.float32)
    return lambda values: np.maximum(
        np.einsum("nchw,cd->ndhw", values, weights[:-1], optimize=True) + weights[-1][None, :, None, None], 0
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    shared = parser.parse_args().shared
    case = next(case for case in CASES if case.name == NAME)
    run = parts_of(case.model(shared))
    names = (case.calibration, case.test, "jpeg_test.npz")
    images = [case.load(name, shared)[0][:most] for name, most in zip(names, (ROWS, JUDGED, JUDGED), strict=True)]
    whole = [run(-1, -2, some) for some in images]
    for start, stop in RUNS:
        reads = [run(-1, start, some) for some in images]
        instead = stand_in(reads[0], run(start, stop, reads[0]))
        without = [run(stop, -2, instead(some)) for some in reads]
        p, q = (scipy.special.log_softmax(one[0].astype(np.float64), 1) for one in (whole, without))
        predictor = GatePredictor.fitted(reads[0].mean((2, 3)), (np.exp(p) * (p - q)).sum(1), 0)
        for name, some, one, other in list(zip(names, reads, whole, without, strict=True))[1:]:
            changed = (one.argmax(1) != other.argmax(1))[np.argsort(predictor.scores(some.mean((2, 3))))]
            told = ", ".join(
                f"{share:.0%}: {changed[: round(share * len(changed))].sum() / len(changed):.2%}" for share in SHARES
            )
            print(f"branches {start} to {stop - 1}, {name}: {told}", flush=True)


if __name__ == "__main__":
    main()
