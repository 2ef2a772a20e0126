"""From torch and back: a module is exported, pruned here, its checkpoint sliced, the module rebuilt, trained on and exported again.

Needs torch (the extra ``models``); the functions of docs/interop.md are taken from the page and run as they stand there.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

import onnxprune  # noqa: E402
from onnxprune.api import slice_checkpoint  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "interop.md"


def fitted() -> Any:
    """Return the function of the page that gives a module the widths of a checkpoint."""
    code = next(block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "def fit_to" in block)
    scope: dict[str, Any] = {}
    exec(code.partition("\n# use\n")[0], scope)
    return scope["fit_to"]


class Residual(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        nn = torch.nn
        self.expand, self.norm1 = nn.Conv2d(width, 24, 1, bias=False), nn.BatchNorm2d(24)
        self.depth, self.norm2 = nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False), nn.BatchNorm2d(24)
        self.project, self.norm3 = nn.Conv2d(24, width, 1), nn.BatchNorm2d(width)

    def forward(self, x: Any) -> Any:
        h = self.norm2(self.depth(torch.relu(self.norm1(self.expand(x)))))
        return x + self.norm3(self.project(torch.relu(h)))


def network() -> Any:
    nn = torch.nn
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(3, 12, 3, padding=1, bias=False), norm=nn.BatchNorm2d(12), act=nn.ReLU(), one=Residual(12), two=Residual(12),
            pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), wide=nn.Linear(12, 32), gelu=nn.GELU(), head=nn.Linear(32, 5),
        )
    )  # fmt: skip


def train(module: Any, steps: int) -> Any:
    optimiser = torch.optim.Adam(module.parameters(), 1e-3)
    module.train()
    for _ in range(steps):
        x = torch.randn(16, 3, 8, 8)
        loss = torch.nn.functional.cross_entropy(module(x), x.mean((2, 3)).argmax(1))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    module.eval()
    return optimiser


def export(module: Any, path: Path, dynamo: bool) -> Path:
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"]}
    if dynamo:
        pytest.importorskip("onnxscript")
        names |= {"dynamic_shapes": ({0: torch.export.Dim("n")},), "external_data": False}
    else:
        names["dynamic_axes"] = {"x": {0: "n"}}
    torch.onnx.export(module, (torch.randn(2, 3, 8, 8),), str(path), dynamo=dynamo, **names)
    return path


def outputs(path: Path, rows: Any) -> np.ndarray:
    return ort.InferenceSession(path).run(None, {"x": rows.numpy()})[0]


@pytest.mark.parametrize("dynamo", [False, True], ids=["TorchScript", "dynamo"])
def test_there_and_back(dynamo: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = network()
    optimiser = train(module, 30)
    model = export(module, tmp_path / "net.onnx", dynamo)
    state = {name: tensor.clone().contiguous() for name, tensor in module.state_dict().items()}
    names = {id(tensor): name for name, tensor in module.named_parameters()}
    state |= {f"{names[id(p)]}.exp_avg": kept["exp_avg"].clone() for p, kept in optimiser.state.items()}
    safetensors.save_file(state, tmp_path / "net.safetensors")

    result = onnxprune.prune(model, ratio=0.5, round_to=1, repair="none", latency=False, output=tmp_path / "small.onnx")
    report = slice_checkpoint(result.plan, model, tmp_path / "net.safetensors", tmp_path / "small.safetensors")
    assert report["unmatched"] == [] and report["warnings"] == []

    left = safetensors.load_file(tmp_path / "small.safetensors")
    own = {name: tensor for name, tensor in left.items() if not name.endswith("exp_avg")}
    small = fitted()(network(), own).eval()
    assert small.one.depth.groups == small.one.depth.out_channels == left["one.depth.weight"].shape[0] < 24
    rows = torch.randn(9, 3, 8, 8)
    with torch.no_grad():
        np.testing.assert_allclose(small(rows).numpy(), outputs(tmp_path / "small.onnx", rows), rtol=1e-3, atol=1e-4)
    assert all(left[f"{name}.exp_avg"].shape == tensor.shape for name, tensor in small.named_parameters())

    train(small, 5)
    again = export(small, tmp_path / "again.onnx", dynamo)
    with torch.no_grad():
        np.testing.assert_allclose(small(rows).numpy(), outputs(again, rows), rtol=1e-3, atol=1e-4)
