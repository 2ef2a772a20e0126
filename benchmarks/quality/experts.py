"""Whole experts of a small vision transformer: trained here on CIFAR-10 images, exported in four forms, then pruned.

python benchmarks/quality/experts.py train NET.pt --shared FOLDER [--epochs 24]        (torch; about 8 minutes of one core)
python benchmarks/quality/experts.py export NET.pt FOLDER                              (torch, onnxscript)
python benchmarks/quality/experts.py measure MODEL.onnx --shared FOLDER [--ratios 0.25,0.5] [--criteria auto,l2] [--repairs none,auto]

12,852 training images, 5,000 others to test. Three blocks of width 64, each with 8 experts of 128 neurons, 2 for a token.
"""

from __future__ import annotations

import argparse
import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, INNER, EXPERTS, PICKED, BLOCKS, BATCH = 64, 128, 8, 2, 3, 250
ROWS, SEEDS = 512, 5  # of the training images without labels; of the criterion that draws
FORMS = ("stacked", "one by one", "fused", "by tokens")


def images(shared: Path, *names: str) -> tuple[np.ndarray, np.ndarray]:
    """Return float32[n, 3, 32, 32], normalised, and int64[n]."""
    found = [np.load(shared / "data" / "cifar10" / f"{name}.npz") for name in names]
    x = np.concatenate([one["x"] for one in found]).transpose(0, 3, 1, 2).astype(np.float32) / 255
    mean, deviation = (
        np.array(v, np.float32).reshape(1, 3, 1, 1) for v in ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
    )
    return np.ascontiguousarray((x - mean) / deviation), np.concatenate([one["y"] for one in found]).astype(np.int64)


def network() -> Any:
    import torch
    from torch import nn
    from torch.nn.functional import gelu, one_hot

    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.form, self.load = nn.Linear(WIDTH, EXPERTS, bias=False), "by tokens", torch.zeros(())
            self.w1 = nn.Parameter(torch.randn(EXPERTS, WIDTH, INNER) / math.sqrt(WIDTH))
            self.b1 = nn.Parameter(torch.zeros(EXPERTS, 1, INNER))
            self.w2 = nn.Parameter(torch.randn(EXPERTS, INNER, WIDTH) / math.sqrt(INNER))
            self.b2 = nn.Parameter(torch.zeros(EXPERTS, 1, WIDTH))

        def expert(self, e: int, h: Any) -> Any:
            return gelu(h @ self.w1[e] + self.b1[e]) @ self.w2[e] + self.b2[e]

        def forward(self, x: Any) -> Any:
            h = x.reshape(-1, WIDTH)
            scores = self.gate(h)
            if self.form == "fused":
                given = {"k": PICKED, "activation_type": "gelu", "normalize_routing_weights": 1}
                turned = [self.w1.transpose(1, 2), self.b1[:, 0], self.w2.transpose(1, 2), self.b2[:, 0]]
                made = torch.onnx.ops.symbolic(
                    "com.microsoft::MoE",
                    [h, scores, *turned],
                    attrs=given,
                    dtype=h.dtype,
                    shape=tuple(h.shape),
                    version=1,
                )
                return made.reshape(x.shape)
            shares = scores.softmax(-1)
            values, numbers = shares.topk(PICKED)
            weights = values / values.sum(-1, keepdim=True)
            placed = torch.zeros_like(shares).scatter(1, numbers, weights)
            if self.form == "stacked":
                inner = gelu(torch.bmm(h.expand(EXPERTS, -1, -1), self.w1) + self.b1)
                return ((torch.bmm(inner, self.w2) + self.b2) * placed.t()[:, :, None]).sum(0).reshape(x.shape)
            if self.form == "one by one":
                return sum(self.expert(e, h) * placed[:, e : e + 1] for e in range(EXPERTS)).reshape(x.shape)
            hot, made = one_hot(numbers, EXPERTS), torch.zeros_like(h)
            self.load = EXPERTS * (hot.float().mean((0, 1)) * shares.mean(0)).sum()
            for e in range(EXPERTS):
                place, token = torch.where(hot.permute(2, 1, 0)[e])
                made = made.index_add(0, token, self.expert(e, h[token]) * weights[token, place][:, None])
            return made.reshape(x.shape)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.behind, self.mixture = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Mixture()
            self.packed, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Any) -> Any:
            size = (*x.shape[:2], 3, 4, WIDTH // 4)
            q, k, v = self.packed(self.before(x)).reshape(size).permute(2, 0, 3, 1, 4).unbind(0)
            mixed = (q @ k.transpose(-1, -2) / math.sqrt(WIDTH // 4)).softmax(-1) @ v
            x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
            return x + self.mixture(self.behind(x))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            widths = (3, 32, 64, WIDTH)
            halves = [
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in pairwise(widths)
            ]
            self.stem, self.places = nn.Sequential(*halves), nn.Parameter(torch.zeros(1, 16, WIDTH))
            self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
            self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

        def forward(self, x: Any) -> Any:
            h = self.stem(x).flatten(2).transpose(1, 2) + self.places
            for block in self.blocks:
                h = block(h)
            return self.head(self.norm(h).mean(1))

    torch.manual_seed(0)
    torch.set_num_threads(1)
    return Net()


def train(path: Path, shared: Path, epochs: int) -> None:
    import torch

    x, y = images(shared, "train", "jpeg_train")
    net, labels = network(), torch.from_numpy(y)
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, epochs * (len(x) // BATCH))
    for epoch in range(epochs):
        draw = np.random.default_rng(epoch)
        for rows in np.split(draw.permutation(len(x))[: len(x) // BATCH * BATCH], len(x) // BATCH):
            batch = torch.from_numpy(x[rows])
            batch = torch.roll(
                batch.flip(3) if draw.random() < 0.5 else batch, tuple(draw.integers(-3, 4, 2).tolist()), (2, 3)
            )
            loss = torch.nn.functional.cross_entropy(net(batch), labels[rows])
            (loss + 0.01 * sum(block.mixture.load for block in net.blocks)).backward()
            optimiser.step()
            optimiser.zero_grad()
            rate.step()
        print(epoch, f"{loss.item():.3f}", flush=True)
    torch.save(net.state_dict(), path)


def export(path: Path, folder: Path) -> None:
    import torch

    net = network()
    net.load_state_dict(torch.load(path))
    net.eval()
    free = ({0: torch.export.Dim("n")},)
    for form in FORMS:
        for block in net.blocks:
            block.mixture.form = form
        out = folder / f"{form.replace(' ', '_')}.onnx"
        names = {"input_names": ["x"], "output_names": ["logits"]}
        torch.onnx.export(
            net,
            (torch.randn(2, 3, 32, 32),),
            out,
            dynamo=True,
            dynamic_shapes=free,
            external_data=False,
            opset_version=20,
            **names,
        )
        print(out)


def measure(path: Path, shared: Path, ratios: str, criteria: str, repairs: str) -> None:
    import onnxruntime as ort

    import onnxprune

    test, labels = images(shared, "jpeg_test")
    rows = images(shared, "train")[0][:ROWS]

    def right(model: bytes) -> float:
        session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        found = [session.run(None, {"x": test[i : i + 500]})[0].argmax(1) for i in range(0, len(test), 500)]
        return float((np.concatenate(found) == labels).mean())

    print(f"original: {right(path.read_bytes()):.2%}, {path.stat().st_size:,} bytes")
    print("| ratio | criterion | repair | top-1 | parameters | CPU s |\n|---|---|---|---|---|---|")
    for ratio in map(float, ratios.split(",")):
        for criterion in criteria.split(","):
            for repair in repairs.split(","):
                found, start = [], time.process_time()
                for seed in range(SEEDS if criterion == "random" else 1):
                    given = {
                        "granularity": "experts",
                        "criterion": criterion,
                        "repair": repair,
                        "seed": seed,
                        "latency": False,
                    }
                    result = onnxprune.prune(path, ratio=ratio, calibration={"x": rows}, **given)
                    found.append((result, time.process_time() - start))
                    start = time.process_time()
                best = np.mean([right(one.model.SerializeToString()) for one, _ in found])
                report = found[-1][0].report
                left = report["after"]["parameters"] / report["before"]["parameters"]
                print(
                    f"| {ratio:g} | {criterion} | {repair} | {best:.2%} | {left:.1%} | {found[-1][1]:.0f} |", flush=True
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "export", "measure"))
    parser.add_argument("path", type=Path)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--shared", type=Path)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--ratios", default="0.25,0.5,0.75")
    parser.add_argument("--criteria", default="auto,routing-mass,l2,random")
    parser.add_argument("--repairs", default="none,auto")
    given = parser.parse_args()
    if given.what == "train":
        train(given.path, given.shared, given.epochs)
    elif given.what == "export":
        export(given.path, given.folder)
    else:
        measure(given.path, given.shared, given.ratios, given.criteria, given.repairs)


if __name__ == "__main__":
    main()
