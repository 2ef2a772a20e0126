"""Train, export and verify the two digit classifiers in this folder; writes models, data and digests.json.

python models/train_digits.py [--output DIR] [--seed N] [--threads N]
"""

import argparse
import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import sklearn
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

TRAIN, CALIBRATION = 1000, 300
INPUT, OUTPUT = "image", "logits"
CLASSES = 10
LOGIT_TOLERANCE = 1e-4  # float32 rounding of two runtimes over some ten layers, logits of order 10


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Same-padded convolution without bias, then batch normalisation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Basic residual block (He et al. 2016, arXiv:1512.03385, fig. 2); projects the shortcut if the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_bn(inputs, outputs, 3, stride), nn.ReLU(), conv_bn(outputs, outputs, 3))
        same_shape = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same_shape else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class Gate(nn.Module):
    """Squeeze-and-excite channel gate (Hu et al. 2018, arXiv:1709.01507, eq. 2 to 4)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.excite = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.excite(x)


class Branches(nn.Module):
    """Three parallel views joined by channel (Szegedy et al. 2015, arXiv:1409.4842, fig. 2b): 1x1, 3x3, pooled."""

    def __init__(self, inputs: int, point: int, reduced: int, wide: int, pooled: int) -> None:
        super().__init__()
        self.point = nn.Sequential(conv_bn(inputs, point, 1), nn.ReLU())
        self.wide = nn.Sequential(conv_bn(inputs, reduced, 1), nn.ReLU(), conv_bn(reduced, wide, 3), nn.ReLU())
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), conv_bn(inputs, pooled, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.point(x), self.wide(x), self.pooled(x)], dim=1)


class DigitsCnn(nn.Module):
    """Small convolutional network with every common channel coupling; image[b,1,8,8] -> logits[b,10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(1, 48, 3), nn.ReLU())
        self.identity = Residual(48, 48)
        self.projection = Residual(48, 96, stride=2)
        self.depthwise = nn.Sequential(conv_bn(96, 96, 3, groups=96), nn.ReLU())
        self.pointwise = nn.Sequential(conv_bn(96, 96, 1), nn.ReLU())
        self.gate = Gate(96, 24)
        self.branches = Branches(96, point=32, reduced=48, wide=64, pooled=32)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(128, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = self.projection(self.identity(self.stem(image)))
        x = x + self.gate(self.pointwise(self.depthwise(x)))
        return self.classifier(self.pool(self.branches(x)).flatten(1))


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, arXiv:1706.03762, eq. 1); tokens[b,t,width] -> same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, self.head_width).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        weights = torch.softmax(query @ key.transpose(2, 3) * self.head_width**-0.5, dim=-1)
        return self.out((weights @ value).transpose(1, 2).reshape(x.shape))


class Encoder(nn.Module):
    """Pre-norm encoder layer (Xiong et al. 2020, arXiv:2002.04745, fig. 1b)."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.hidden_norm = nn.LayerNorm(width)
        self.hidden = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.hidden(self.hidden_norm(x)))


class DigitsTransformer(nn.Module):
    """Vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) on sixteen 2x2 patches, mean-pooled."""

    def __init__(self, width: int = 64, heads: int = 4, hidden: int = 256, layers: int = 3) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.position = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.encoder = nn.Sequential(*(Encoder(width, heads, hidden, dropout=0.1) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        patches = image.reshape(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4)
        tokens = self.encoder(self.embed(patches) + self.position)
        return self.classifier(self.norm(tokens).mean(dim=1))


@dataclass(frozen=True)
class Digits:
    """images: float32[n,1,8,8] in [0,1]; labels: int64[n]."""

    images: np.ndarray
    labels: np.ndarray


def load_splits(seed: int) -> tuple[Digits, Digits, Digits]:
    """Shuffle once and return the disjoint (train, calibration, test) parts."""
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    images = (data.images[order] / 16).astype(np.float32)[:, None]
    labels = data.target[order].astype(np.int64)
    bounds = [0, TRAIN, TRAIN + CALIBRATION, len(order)]
    train, calibration, test = (Digits(images[a:b], labels[a:b]) for a, b in pairwise(bounds))
    return train, calibration, test


def augment(images: Tensor, noise: float = 0.05) -> Tensor:
    """Shift each image by up to one pixel on each axis (zeros move in) and add Gaussian noise."""
    count = len(images)
    windows = F.pad(images[:, 0], (1, 1, 1, 1)).unfold(1, 8, 1).unfold(2, 8, 1)
    row, column = torch.randint(0, 3, (2, count))
    shifted = windows[torch.arange(count), row, column][:, None]
    return shifted + noise * torch.randn_like(shifted)


@dataclass(frozen=True)
class Recipe:
    """How one model is made: the network, its training settings and its exporter."""

    name: str
    network: Callable[[], nn.Module]
    epochs: int
    peak_rate: float
    weight_decay: float
    export: Callable[[nn.Module, Path], None]


def train(recipe: Recipe, data: Digits, seed: int, batch: int = 50) -> nn.Module:
    """Train for a fixed number of epochs (AdamW, one-cycle rate, label smoothing) and return the last weights."""
    torch.manual_seed(seed)
    net = recipe.network()
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    steps = len(images) // batch
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.peak_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.peak_rate, total_steps=recipe.epochs * steps)
    for _ in range(recipe.epochs):
        for chosen in torch.randperm(len(images))[: steps * batch].split(batch):
            optimizer.zero_grad()
            F.cross_entropy(net(augment(images[chosen])), labels[chosen], label_smoothing=0.1).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def export_torchscript(net: nn.Module, path: Path) -> None:
    """Export in training-preserving mode, which keeps BatchNormalization apart from Conv."""
    torch.onnx.export(
        net,
        (torch.zeros(2, 1, 8, 8),),
        str(path),
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
        opset_version=17,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        dynamo=False,
    )


def export_dynamo(net: nn.Module, path: Path) -> None:
    """Export through torch.export, weights inside the file; drops stack traces, which hold paths of this machine."""
    program = torch.onnx.export(
        net,
        (torch.zeros(2, 1, 8, 8),),
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=18,
        dynamo=True,
    )
    model = program.model_proto
    for node in model.graph.node:
        kept = [entry for entry in node.metadata_props if not entry.key.endswith("stack_trace")]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.save(model, path)


RECIPES = (
    Recipe("digits_cnn", DigitsCnn, 60, 3e-3, 0.05, export_torchscript),
    Recipe("digits_transformer", DigitsTransformer, 200, 2e-3, 0.05, export_dynamo),
)


def correct(logits: np.ndarray, labels: np.ndarray) -> int:
    """Count rows of logits[n,10] whose largest entry is the label."""
    return int((logits.argmax(axis=1) == labels).sum())


def verify(path: Path, net: nn.Module, test: Digits, threads: int) -> int:
    """Return how many test images ONNX Runtime gets right; RuntimeError unless file and network agree."""
    onnx.checker.check_model(path, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = net(torch.from_numpy(test.images)).numpy()
    for batch in (1, 7, len(test.images)):
        (logits,) = session.run([OUTPUT], {INPUT: test.images[:batch]})
        error = float(np.abs(logits - expected[:batch]).max())
        if error > LOGIT_TOLERANCE:
            raise RuntimeError(f"{path.name}: at batch {batch} the exported logits differ from torch's by {error:.3g}")
    hits = correct(logits, test.labels)
    if hits != correct(expected, test.labels):
        raise RuntimeError(f"{path.name}: ONNX Runtime and torch classify the test images differently")
    return hits


def make_model(recipe: Recipe, splits: tuple[Digits, Digits, Digits], output: Path, args: argparse.Namespace) -> dict:
    """Train, export and verify one model; returns its entry in digests.json."""
    training, calibration, test = splits
    net = train(recipe, training, args.seed)
    path = output / f"{recipe.name}.onnx"
    recipe.export(net, path)
    with torch.no_grad():
        calibration_hits = correct(net(torch.from_numpy(calibration.images)).numpy(), calibration.labels)
    hits = verify(path, net, test, args.threads)
    return {
        "calibration_accuracy": calibration_hits / len(calibration.labels),
        "exporter": recipe.export.__name__.removeprefix("export_"),
        "opset": onnx.load(path).opset_import[0].version,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "test_accuracy": hits / len(test.labels),
        "test_correct": hits,
    }


def file_entry(path: Path) -> dict[str, int | str]:
    """Size in bytes and sha256 of one file."""
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0, help="decides the splits, the weights and the augmentation")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch and ONNX Runtime")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)

    args.output.mkdir(parents=True, exist_ok=True)
    training, calibration, test = splits = load_splits(args.seed)
    np.savez_compressed(args.output / "digits_calib.npz", **{INPUT: calibration.images})
    np.savez_compressed(args.output / "digits_test.npz", **{INPUT: test.images, "labels": test.labels})
    models = {f"{recipe.name}.onnx": make_model(recipe, splits, args.output, args) for recipe in RECIPES}

    tools = (torch, np, sklearn, onnx, onnxruntime)
    digests = {
        "schema_version": 1,
        "seed": args.seed,
        "splits": {"train": len(training.labels), "calibration": len(calibration.labels), "test": len(test.labels)},
        "versions": {"python": platform.python_version()} | {tool.__name__: tool.__version__ for tool in tools},
        "models": models,
        "files": {name: file_entry(args.output / name) for name in [*models, "digits_calib.npz", "digits_test.npz"]},
    }
    (args.output / "digests.json").write_text(json.dumps(digests, indent=2) + "\n")
    for name, entry in models.items():
        print(f"{name}: {entry['test_correct']} of {len(test.labels)} test images right ({entry['test_accuracy']:.2%})")


if __name__ == "__main__":
    main()
