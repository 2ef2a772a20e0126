"""How well the divergence foretells what is left of a detector: python benchmarks/detectors.py MODEL.onnx ROWS.npz [COUNT].

Weights of some convolutions are perturbed, COUNT times over; printed are F1 of the detections and both divergences, with and without
looking where something is seen, and their rank correlations with the F1 that is lost (of those with F1 between 0.1 and 0.97 too).
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper
from scipy.stats import spearmanr

import onnxprune
from onnxprune.coupling.channels import layouts
from onnxprune.coupling.links import build_links
from onnxprune.data import input_specs, open_dataset
from onnxprune.measure.divergence import Reference
from onnxprune.measure.kinds import observed
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph

ROWS, BATCH = 20, 20


def perturbed(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """Return the model with noise, of 0.01 to 0.5 deviations, on the weights of all, the first, the last or some convolutions."""
    rng = np.random.default_rng(seed)
    stored = {tensor.name for tensor in model.graph.initializer}
    names = [n.input[1] for n in model.graph.node if n.op_type == "Conv" and n.input[1] in stored]
    chosen = {*(names, names[: len(names) // 3], names[-len(names) // 3 :], list(rng.choice(names, 3)))[seed % 4]}
    size, result = 10 ** rng.uniform(-2, -0.3), onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        if tensor.name in chosen:
            array = numpy_helper.to_array(tensor)
            noise = size * array.std() * rng.standard_normal(array.shape)
            tensor.CopyFrom(numpy_helper.from_array((array + noise).astype(array.dtype), tensor.name))
    return result


def main() -> None:
    path, rows = sys.argv[1:3]
    model = onnxprune.load(path)
    data = open_dataset(rows, input_specs(model.structure)).take(ROWS, 0)
    outputs = observed(model, data, layouts(build_links(gather_facts(model, Graph(model.structure)))))
    batches = list(data.batches(BATCH))
    focused, plain = (Reference(model, batches, outputs=how) for how in (outputs, replace(outputs, task=None)))
    found = []
    for seed in range(int(sys.argv[3]) if len(sys.argv) > 3 else 60):
        other = onnxprune.load(perturbed(model.proto, seed))
        judged = focused.judged(other)
        found.append((judged.score or 0.0, judged.divergence, plain.divergence(other)))
        print("F1 {:.3f}, divergence {:.5f}, without the task {:.6f}".format(*found[-1]), flush=True)
    table = np.array(found)
    for title, part in (("all", table), ("F1 0.1 to 0.97", table[(table[:, 0] > 0.1) & (table[:, 0] < 0.97)])):
        with_task, without = (spearmanr(-part[:, 0], part[:, column]).statistic for column in (1, 2))
        print(f"{title} ({len(part)}): rank correlation {with_task:.2f}, without the task {without:.2f}")


if __name__ == "__main__":
    main()
