"""Classifiers, segmentation, restoration and generators."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Convolution, batch normalisation, activation; spatial size is kept at stride 1."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), act())


class AlexNet(nn.Module):
    """AlexNet at a quarter of its width, with local response normalisation and a flatten before the dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 24, 11, 4, 2), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2),
            nn.Conv2d(24, 64, 5, 1, 2, groups=2), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 96, 3, 1, 1), nn.ReLU(), nn.Conv2d(96, 96, 3, 1, 1, groups=2), nn.ReLU(),
            nn.Conv2d(96, 64, 3, 1, 1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.Dropout(),
            nn.Linear(64 * 9, 256),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(256, 256),
            nn.ReLU(),
            nn.Linear(256, 10),
        )

    def forward(self, image: Tensor) -> Tensor:
        """image[b, 3, 127, 127] -> logits[b, 10]."""
        return self.head(torch.flatten(self.features(image), 1))


class OptionA(nn.Module):
    """CIFAR ResNet-20 whose shortcuts stride and zero-pad the channels instead of projecting them."""

    def __init__(self, width: int = 16, blocks: int = 3) -> None:
        super().__init__()
        self.stem = conv(3, width)
        widths = [width] * blocks + [2 * width] * blocks + [4 * width] * blocks
        self.first = nn.ModuleList(conv(a, b, stride=1 + (b > a)) for a, b in pairwise([width, *widths]))
        self.second = nn.ModuleList(nn.Sequential(nn.Conv2d(b, b, 3, padding=1), nn.BatchNorm2d(b)) for b in widths)
        self.head = nn.Linear(4 * width, 10)

    def forward(self, image: Tensor) -> Tensor:
        """image[b, 3, h, w] -> logits[b, 10]."""
        x = self.stem(image)
        for first, second in zip(self.first, self.second, strict=True):
            y = second(first(x))
            extra = y.shape[1] - x.shape[1]
            shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, extra // 2, extra - extra // 2)) if extra else x
            x = F.relu(y + shortcut)
        return self.head(x.mean((2, 3)))


class UNet(nn.Module):
    """U-Net with concatenated skips; `up` is transpose, nearest, bilinear or shuffle; `gate` adds attention gates."""

    def __init__(self, up: str = "transpose", width: int = 16, depth: int = 3, gate: bool = False) -> None:
        super().__init__()
        widths = [width << level for level in range(depth + 1)]
        self.up, self.gated = up, gate
        self.down = nn.ModuleList(nn.Sequential(conv(a, b), conv(b, b)) for a, b in pairwise([3, *widths]))
        self.raise_ = nn.ModuleList(self._raise(a, b) for a, b in pairwise(widths[::-1]))
        self.gates = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * b, b, 1), nn.ReLU(), nn.Conv2d(b, 1, 1), nn.Sigmoid()) for b in widths[-2::-1]
        )
        self.join = nn.ModuleList(nn.Sequential(conv(2 * b, b), conv(b, b)) for b in widths[-2::-1])
        self.head = nn.Conv2d(width, 2, 1)

    def _raise(self, inputs: int, outputs: int) -> nn.Module:
        if self.up == "transpose":
            return nn.ConvTranspose2d(inputs, outputs, 2, 2)
        if self.up == "shuffle":
            return nn.Sequential(nn.Conv2d(inputs, 4 * outputs, 1), nn.PixelShuffle(2))
        return nn.Sequential(nn.Upsample(scale_factor=2, mode=self.up), nn.Conv2d(inputs, outputs, 1))

    def forward(self, image: Tensor) -> Tensor:
        """image[b, 3, h, w] -> logits[b, 2, h, w]; h and w divide by 2**depth."""
        skips: list[Tensor] = []
        x = image
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for up, gate, join in zip(self.raise_, self.gates, self.join, strict=True):
            x, skip = up(x), skips.pop()
            x = join(torch.cat([skip * gate(torch.cat([skip, x], 1)) if self.gated else skip, x], 1))
        return self.head(x)


class Edsr(nn.Module):
    """EDSR: scaled residual blocks without normalisation, a long skip, then pixel shuffles."""

    def __init__(self, width: int = 32, blocks: int = 4, scale: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(blocks)
        )
        self.tail = nn.Conv2d(width, width, 3, padding=1)
        steps = scale.bit_length() - 1
        self.up = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2)) for _ in range(steps))
        )
        self.head = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """image[b, 3, h, w] -> image[b, 3, scale h, scale w]."""
        x = stem = self.stem(image)
        for block in self.blocks:
            x = x + 0.1 * block(x)
        return self.head(self.up(self.tail(x) + stem))


class Espcn(nn.Sequential):
    """ESPCN: three convolutions and one pixel shuffle that makes the image itself."""

    def __init__(self, scale: int = 3) -> None:
        super().__init__(
            nn.Conv2d(1, 64, 5, padding=2), nn.Tanh(), nn.Conv2d(64, 32, 3, padding=1), nn.Tanh(),
            nn.Conv2d(32, scale * scale, 3, padding=1), nn.PixelShuffle(scale), nn.Sigmoid(),
        )  # fmt: skip


class Unshuffle(nn.Module):
    """Denoiser in the manner of FFDNet: pixel unshuffle, PReLU convolutions, pixel shuffle, and a residual output."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(12, width, 3, padding=1), nn.PReLU(width),
            nn.Conv2d(width, 4 * width, 3, padding=1), nn.PReLU(), nn.PixelShuffle(2), nn.PixelUnshuffle(2),
            nn.Conv2d(4 * width, width, 3, padding=1), nn.PReLU(width),
            nn.Conv2d(width, 12, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip

    def forward(self, image: Tensor) -> Tensor:
        """image[b, 3, h, w] -> image of the same shape."""
        return image - self.body(image)


class Generator(nn.Sequential):
    """DCGAN generator: transposed convolutions from a latent vector."""

    def __init__(self, latent: int = 64, width: int = 32) -> None:
        widths = [8 * width, 4 * width, 2 * width, width]
        ups = [
            nn.Sequential(nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in pairwise(widths)
        ]
        first = nn.Sequential(
            nn.Linear(latent, widths[0] * 16), nn.Unflatten(1, (widths[0], 4, 4)), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        super().__init__(first, *ups, nn.ConvTranspose2d(width, 3, 4, 2, 1), nn.Tanh())


class AutoEncoder(nn.Module):
    """Variational autoencoder: two dense heads, exp, and grouped transposed convolutions with output padding."""

    def __init__(self, width: int = 16, latent: int = 20) -> None:
        super().__init__()
        self.encode = nn.Sequential(conv(1, width, stride=2), conv(width, 2 * width, stride=2), nn.Flatten())
        self.mean, self.log_variance = nn.Linear(98 * width, latent), nn.Linear(98 * width, latent)
        self.spread = nn.Linear(latent, 98 * width)
        self.decode = nn.Sequential(
            nn.Unflatten(1, (2 * width, 7, 7)),
            nn.ConvTranspose2d(2 * width, width, 3, 2, 1, output_padding=1, groups=4), nn.ELU(),
            nn.ConvTranspose2d(width, 1, 3, 2, 1, output_padding=1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """image[b, 1, 28, 28], noise[b, latent] -> image, mean and log variance."""
        code = self.encode(image)
        mean, log_variance = self.mean(code), self.log_variance(code)
        return self.decode(self.spread(mean + noise * torch.exp(0.5 * log_variance))), mean, log_variance


class StyleTransfer(nn.Module):
    """Fast style transfer with conditional instance normalisation: the scale and shift come from a style vector."""

    def __init__(self, width: int = 16, styles: int = 8, blocks: int = 2) -> None:
        super().__init__()
        widths: Sequence[int] = [3, width, 2 * width, 4 * width, *[4 * width] * blocks]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, 2 if 0 < i < 3 else 1, 1, padding_mode="reflect")
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.norms = nn.ModuleList(nn.InstanceNorm2d(b) for b in widths[1:])
        self.affine = nn.ModuleList(nn.Linear(styles, 2 * b) for b in widths[1:])
        self.up = nn.Sequential(
            nn.Upsample(scale_factor=2), nn.Conv2d(4 * width, width, 3, padding=1),
            nn.InstanceNorm2d(width, affine=True), nn.ReLU(),
            nn.Upsample(scale_factor=2), nn.Conv2d(width, 3, 9, padding=4), nn.Tanh(),
        )  # fmt: skip

    def forward(self, image: Tensor, style: Tensor) -> Tensor:
        """image[b, 3, h, w], style[b, styles] -> image."""
        x = image
        for layer, norm, affine in zip(self.convs, self.norms, self.affine, strict=True):
            scale, shift = affine(style)[:, :, None, None].chunk(2, 1)
            y = F.relu(norm(layer(x)) * (1 + scale) + shift)
            x = x + y if x.shape == y.shape else y
        return self.up(x)


class ChannelsLast(nn.Module):
    """Inverted residual network that keeps its activations as NHWC and transposes around every convolution."""

    def __init__(self, width: int = 16, blocks: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.expand = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(blocks))
        self.depthwise = nn.ModuleList(
            nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width) for _ in range(blocks)
        )
        self.project = nn.ModuleList(nn.Conv2d(4 * width, width, 1) for _ in range(blocks))
        self.scale = nn.ParameterList(nn.Parameter(torch.ones(4 * width)) for _ in range(blocks))
        self.head = nn.Linear(width * 64, 10)

    @staticmethod
    def _wrapped(layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        """image[b, 16, 16, 3] -> logits[b, 10]."""
        x = F.relu6(self._wrapped(self.stem, image))
        for expand, depthwise, project, scale in zip(
            self.expand, self.depthwise, self.project, self.scale, strict=True
        ):
            x = x + self._wrapped(project, F.relu6(self._wrapped(depthwise, F.hardswish(expand(x))) * scale))
        return self.head(x.reshape(x.shape[0], -1))


class Volume(nn.Module):
    """3-D convolutional network with group normalisation, Mish and a gate by global pooling."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(1, width, 3, 2, 1), nn.GroupNorm(4, width), nn.Mish())
        self.body = nn.Sequential(
            nn.Conv3d(width, 2 * width, 3, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.Mish(),
            nn.Conv3d(2 * width, width, 1),
        )
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool3d(1),
            nn.Conv3d(width, width // 4, 1),
            nn.ReLU(),
            nn.Conv3d(width // 4, width, 1),
            nn.Sigmoid(),
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(width, 4))

    def forward(self, volume: Tensor) -> Tensor:
        """volume[b, 1, d, h, w] -> logits[b, 4]."""
        x = self.stem(volume)
        y = self.body(x)
        return self.head(x + y * self.gate(y))


class Siamese(nn.Module):
    """Two images through one encoder (tied weights), compared by difference, product and concatenation."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            conv(3, width),
            nn.MaxPool2d(2),
            conv(width, 2 * width),
            conv(2 * width, 2 * width, groups=4),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Linear(24 * width, 32), nn.LeakyReLU(), nn.Linear(32, 1))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """left and right[b, 3, h, w] -> similarity[b, 1]."""
        a, b = self.encode(left), self.encode(right)
        return self.head(torch.cat([(a - b).abs(), a * b, a], 1))


class Merges(nn.Module):
    """Every merge on one spine: Sub, Mul, Max, Min, three-way Add, broadcast adds; the spine is also an output."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = conv(3, width)
        self.branches = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(6))
        self.shift = nn.Parameter(torch.zeros(width, 1, 1))
        self.gain = nn.Parameter(torch.ones(1, width, 1, 1))
        self.single = nn.Conv2d(width, 1, 1)
        self.multiplier = nn.Conv2d(width, 2 * width, 3, padding=1, groups=width)
        self.order = nn.Conv2d(2 * width, 8, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image[b, 3, h, w] -> (features[b, 8, h, w], spine[b, width, h, w])."""
        x = self.stem(image)
        a, b, c, d, e, f = (branch(x) for branch in self.branches)
        spine = torch.minimum(torch.maximum(a - b, c), d * 2.0) + e + f
        x = (spine + self.shift) * self.gain * torch.sigmoid(self.single(x))
        first, second, third = torch.split(self.multiplier(x), [4, 8, x.shape[1] * 2 - 12], 1)
        return self.order(torch.cat([third, first, second], 1)), spine
