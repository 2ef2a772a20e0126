"""Turn a row into an eval-mode torch module with seeded random weights, without downloading anything."""

import importlib
import math
import os
import sys
import zlib
from collections.abc import Callable
from typing import Any

import torch
from row import Input, Row, parse_input
from torch import Tensor, nn

torch.set_num_threads(1)
torch.backends.mha.set_fastpath_enabled(False)


def _import_torchvision() -> tuple[Any, Any]:
    """Import torchvision, even where its compiled operators do not load (a CPU torch beside a wheel built for CUDA).

    The second value is the library of stand-in operators; it must stay alive as long as the first.
    """
    try:
        return importlib.import_module("torchvision"), None
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, operator):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return importlib.import_module("torchvision"), library


torchvision, _operators = _import_torchvision()


def _class(package: str, target: str) -> Callable[..., nn.Module]:
    """The class that `module:Class` names inside a package."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(f"{package}.{module}"), name)


def _timm(target: str, options: dict[str, Any]) -> nn.Module:
    layers = importlib.import_module("timm.layers")
    layers.set_fused_attn(options.pop("fused_attention", False))
    if ":" in target:
        return _class("timm.models", target)(**options)
    return importlib.import_module("timm").create_model(target, pretrained=False, exportable=True, **options)


def _torchvision(target: str, options: dict[str, Any]) -> nn.Module:
    if ":" in target:
        return _class("torchvision.models", target)(**options)
    return torchvision.models.get_model(target, weights=None, **options)


def _transformers(target: str, options: dict[str, Any]) -> nn.Module:
    transformers = importlib.import_module("transformers")
    model_class = _class("transformers.models", target) if ":" in target else getattr(transformers, target)
    attention = options.pop("attention", "eager")
    config = model_class.config_class(**options)
    config._attn_implementation = attention
    if hasattr(config, "use_cache"):
        config.use_cache = False
    return model_class(config)


def _nets(target: str, options: dict[str, Any]) -> nn.Module:
    return _class("nets", target)(**options)


def _keras(target: str, options: dict[str, Any]) -> nn.Module:
    os.environ["KERAS_BACKEND"] = "torch"
    return importlib.import_module("nets.channels_last").build(target, **options)


SOURCES: dict[str, Callable[[str, dict[str, Any]], nn.Module]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "transformers": _transformers,
    "nets": _nets,
    "keras": _keras,
}


class Positional(nn.Module):
    """Call a model by position (by keyword, if there are `names`) and return one field, or all, of its result."""

    def __init__(self, model: nn.Module, names: list[str], output: str) -> None:
        super().__init__()
        self.model, self.names, self.output = model, names, output

    def forward(self, *values: Tensor) -> Any:
        result = self.model(**dict(zip(self.names, values, strict=True))) if self.names else self.model(*values)
        return result[self.output] if self.output else tuple(result.values())


_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


def _draw(module: nn.Module, name: str, value: Tensor, random: torch.Generator) -> None:
    """Fill one parameter in place: He-normal kernels, 1/sqrt(fan-in) matrices, gains U(0.5, 1.5), shifts N(0, 0.1)."""
    if value.ndim >= 2 and not isinstance(module, _NORMS):
        fan_in = value.numel() // value.shape[0]
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            fan_in = max(1, value.numel() // (value.shape[1] * module.groups * math.prod(module.stride)))
        known = isinstance(module, nn.modules.conv._ConvNd | nn.Linear) or min(value.shape[:2]) > 8
        gain = 2.0 if isinstance(module, nn.modules.conv._ConvNd) else 1.0
        deviation = (gain / fan_in) ** 0.5 if known else 0.3
        value.normal_(0.0, deviation, generator=random)
    elif "bias" in name or "beta" in name or value.numel() == 0:
        value.normal_(0.0, 0.1, generator=random)
    else:
        value.uniform_(0.5, 1.5, generator=random)


@torch.no_grad()
def randomise(model: nn.Module, random: torch.Generator) -> None:
    """Give every parameter a non-degenerate random value."""
    for module in model.modules():
        for name, value in module.named_parameters(recurse=False):
            _draw(module, name, value, random)


@torch.no_grad()
def randomise_statistics(model: nn.Module, arguments: tuple[Tensor, ...], random: torch.Generator) -> None:
    """Run once and set each BatchNorm to mean N(0, 0.1) and variance U(0.5, 1.5), in units of the power of its input.

    Without that unit activations grow by orders of magnitude with depth, and comparing outputs means nothing.
    """

    def set_statistics(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        power = inputs[0].pow(2).mean().clamp(min=1e-6)
        module.running_mean.normal_(0.0, 0.1, generator=random).mul_(power.sqrt())
        module.running_var.uniform_(0.5, 1.5, generator=random).mul_(power)

    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    handles = [norm.register_forward_pre_hook(set_statistics) for norm in norms if norm.track_running_stats]
    if handles:
        model(*arguments)
    for handle in handles:
        handle.remove()


def _example(spec: Input, random: torch.Generator) -> Tensor:
    if spec.kind == "float":
        return torch.randn(spec.shape, generator=random)
    if spec.kind == "ones":
        return torch.ones(spec.shape, dtype=torch.int64)
    return torch.randint(0, spec.high, spec.shape, generator=random)


def build(row: Row) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The eval-mode model of a row in float32 or float16 and its seeded example inputs in the order of the row."""
    seed = zlib.crc32(row.name.removesuffix(".dynamo").encode())
    random = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    library, _, target = row.source.partition(":")
    specs = [parse_input(text) for text in row.inputs]
    options = row.options | ({"seed": seed} if library == "keras" else {})
    model = SOURCES[library](target, dict(options)).eval()
    if library == "transformers" or row.output:
        model = Positional(model, [spec.name for spec in specs] if library == "transformers" else [], row.output).eval()
    arguments = tuple(_example(spec, random) for spec in specs)
    if library != "keras":
        randomise(model, random)
        randomise_statistics(model, arguments, random)
    if row.half:
        return model.half(), tuple(value.half() if value.is_floating_point() else value for value in arguments)
    return model, arguments
