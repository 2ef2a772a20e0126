"""Detectors: YOLO v5 and v8 manner, SSD-lite, a feature pyramid, and a box transformer."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nets.image import conv


def silu(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """Convolution, batch normalisation, SiLU."""
    return conv(inputs, outputs, kernel, stride, act=nn.SiLU)


class Bottleneck(nn.Module):
    """Two convolutions with an optional identity shortcut."""

    def __init__(self, width: int, shortcut: bool) -> None:
        super().__init__()
        self.first, self.second, self.shortcut = silu(width, width, 3), silu(width, width, 3), shortcut

    def forward(self, x: Tensor) -> Tensor:
        """x[b, width, h, w] -> the same shape."""
        y = self.second(self.first(x))
        return x + y if self.shortcut else y


class C2f(nn.Module):
    """Split in two, a chain of bottlenecks on one half, everything concatenated (YOLO v8)."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.enter, self.leave = silu(inputs, outputs), silu((2 + depth) * half, outputs)
        self.blocks = nn.ModuleList(Bottleneck(half, shortcut) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """x[b, inputs, h, w] -> [b, outputs, h, w]."""
        parts = list(self.enter(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class C3(nn.Module):
    """Two parallel entries, bottlenecks on one of them (YOLO v5)."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.main, self.side, self.leave = silu(inputs, half), silu(inputs, half), silu(outputs, outputs)
        self.blocks = nn.Sequential(*(Bottleneck(half, shortcut) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """x[b, inputs, h, w] -> [b, outputs, h, w]."""
        return self.leave(torch.cat([self.blocks(self.main(x)), self.side(x)], 1))


class Elan(nn.Module):
    """Layer aggregation: five taps of a chain are concatenated (YOLO v7)."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.main, self.side, self.leave = silu(inputs, half), silu(inputs, half), silu(4 * half, outputs)
        self.first, self.second = (
            nn.Sequential(silu(half, half, 3), silu(half, half, 3)),
            nn.Sequential(silu(half, half, 3), silu(half, half, 3)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x[b, inputs, h, w] -> [b, outputs, h, w]."""
        main = self.main(x)
        first = self.first(main)
        return self.leave(torch.cat([self.second(first), first, main, self.side(x)], 1))


class Sppf(nn.Module):
    """Spatial pyramid pooling by repeated max pools."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.leave = silu(width, width // 2), silu(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x[b, width, h, w] -> the same shape."""
        taps = [self.enter(x)]
        for _ in range(3):
            taps.append(F.max_pool2d(taps[-1], 5, 1, 2))
        return self.leave(torch.cat(taps, 1))


BLOCKS: dict[str, type[nn.Module]] = {"c2f": C2f, "c3": C3, "elan": Elan}


class Yolo(nn.Module):
    """Backbone, path-aggregation neck and either the anchor head of v5 or the distribution head of v8."""

    def __init__(self, block: str = "c2f", width: int = 16, classes: int = 10, head: str = "dfl") -> None:
        super().__init__()
        cell, w, self.head, self.classes = BLOCKS[block], width, head, classes
        self.stem = nn.Sequential(silu(3, w, 3, 2), silu(w, 2 * w, 3, 2), cell(2 * w, 2 * w))
        self.stages = nn.ModuleList([
            nn.Sequential(silu(2 * w, 4 * w, 3, 2), cell(4 * w, 4 * w, 2)),
            nn.Sequential(silu(4 * w, 8 * w, 3, 2), cell(8 * w, 8 * w, 2)),
            nn.Sequential(silu(8 * w, 16 * w, 3, 2), cell(16 * w, 16 * w), Sppf(16 * w)),
        ])  # fmt: skip
        self.top = nn.ModuleList([cell(24 * w, 8 * w, shortcut=False), cell(12 * w, 4 * w, shortcut=False)])
        self.lower = nn.ModuleList([silu(4 * w, 4 * w, 3, 2), silu(8 * w, 8 * w, 3, 2)])
        self.bottom = nn.ModuleList([cell(12 * w, 8 * w, shortcut=False), cell(24 * w, 16 * w, shortcut=False)])
        outputs = 3 * (5 + classes) if head == "anchor" else classes
        levels = [4 * w, 8 * w, 16 * w]
        self.score = nn.ModuleList(self._branch(a, 4 * w, outputs) for a in levels)
        self.box = nn.ModuleList(self._branch(a, 4 * w, 64) for a in levels)
        self.project = nn.Conv2d(16, 1, 1, bias=False)

    def _branch(self, inputs: int, width: int, outputs: int) -> nn.Sequential:
        if self.head == "anchor":
            return nn.Sequential(nn.Conv2d(inputs, outputs, 1))
        return nn.Sequential(silu(inputs, width, 3), silu(width, width, 3), nn.Conv2d(width, outputs, 1))

    def _anchors(self, levels: list[Tensor]) -> Tensor:
        flat = []
        for level, score in zip(levels, self.score, strict=True):
            raw = score(level)
            b, _, h, w = raw.shape
            raw = raw.view(b, 3, 5 + self.classes, h, w).permute(0, 1, 3, 4, 2).sigmoid()
            centre, size, rest = raw.split((2, 2, 1 + self.classes), 4)
            flat.append(torch.cat([centre * 2 - 0.5, (size * 2) ** 2, rest], 4).reshape(b, -1, 5 + self.classes))
        return torch.cat(flat, 1)

    def _distribution(self, levels: list[Tensor]) -> Tensor:
        rows = [
            torch.cat([box(x), score(x)], 1).flatten(2)
            for x, box, score in zip(levels, self.box, self.score, strict=True)
        ]
        box, score = torch.cat(rows, 2).split((64, self.classes), 1)
        b, _, a = box.shape
        distance = self.project(box.view(b, 4, 16, a).transpose(2, 1).softmax(1)).view(b, 4, a)
        near, far = distance.chunk(2, 1)
        return torch.cat([(far - near) / 2, near + far, score.sigmoid()], 1)

    def forward(self, image: Tensor) -> Tensor:
        """image[b, 3, h, w] with h and w multiples of 32 -> boxes and scores of all cells."""
        x = self.stem(image)
        c3, c4, c5 = (x := stage(x) for stage in self.stages)
        p4 = self.top[0](torch.cat([F.interpolate(c5, scale_factor=2.0), c4], 1))
        p3 = self.top[1](torch.cat([F.interpolate(p4, scale_factor=2.0), c3], 1))
        n4 = self.bottom[0](torch.cat([self.lower[0](p3), p4], 1))
        n5 = self.bottom[1](torch.cat([self.lower[1](n4), c5], 1))
        return self._anchors([p3, n4, n5]) if self.head == "anchor" else self._distribution([p3, n4, n5])


class Pyramid(nn.Module):
    """Feature pyramid network with a head shared by all levels (RetinaNet), group normalisation in the head."""

    def __init__(self, width: int = 24, classes: int = 5) -> None:
        super().__init__()
        sizes = [width, 2 * width, 4 * width]
        self.stem = conv(3, width, stride=2)
        self.stages = nn.ModuleList(
            [conv(width, sizes[0], stride=2), conv(sizes[0], sizes[1], stride=2), conv(sizes[1], sizes[2], stride=2)]
        )
        self.lateral = nn.ModuleList(nn.Conv2d(size, 32, 1) for size in sizes)
        self.smooth = nn.ModuleList(nn.Conv2d(32, 32, 3, padding=1) for _ in sizes)
        self.tower = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.GroupNorm(8, 32), nn.ReLU())
        self.score, self.box = nn.Conv2d(32, classes, 3, padding=1), nn.Conv2d(32, 4, 3, padding=1)

    def forward(self, image: Tensor) -> list[Tensor]:
        """image[b, 3, h, w] -> score and box map of each of the three levels."""
        x = self.stem(image)
        maps = [x := stage(x) for stage in self.stages]
        tops = [lateral(m) for lateral, m in zip(self.lateral, maps, strict=True)]
        for level in (1, 0):
            tops[level] = tops[level] + F.interpolate(tops[level + 1], size=tops[level].shape[-2:], mode="nearest")
        towers = [self.tower(smooth(top)) for smooth, top in zip(self.smooth, tops, strict=True)]
        return [head(tower) for tower in towers for head in (self.score, self.box)]


class SsdLite(nn.Module):
    """Depthwise separable SSD whose heads are transposed, reshaped and concatenated over the levels."""

    def __init__(self, width: int = 16, classes: int = 6, anchors: int = 4) -> None:
        super().__init__()
        self.classes = classes
        widths = [width, 2 * width, 4 * width, 4 * width]
        self.stem = conv(3, width, stride=2, act=nn.ReLU6)
        self.stages = nn.ModuleList(
            self._separable(a, b) for a, b in zip(widths, [*widths[1:], 4 * width], strict=True)
        )
        self.boxes = nn.ModuleList(self._head(b, anchors * 4) for b in [*widths[1:], 4 * width])
        self.scores = nn.ModuleList(self._head(b, anchors * classes) for b in [*widths[1:], 4 * width])

    @staticmethod
    def _separable(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(conv(inputs, inputs, 3, 2, inputs, nn.ReLU6), conv(inputs, outputs, 1, act=nn.ReLU6))

    @staticmethod
    def _head(width: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(conv(width, width, 3, 1, width, nn.ReLU6), nn.Conv2d(width, outputs, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image[b, 3, h, w] -> (boxes[b, cells, 4], probabilities[b, cells, classes])."""
        x = self.stem(image)
        maps = [x := stage(x) for stage in self.stages]
        boxes = [
            head(m).permute(0, 2, 3, 1).reshape(m.shape[0], -1, 4) for head, m in zip(self.boxes, maps, strict=True)
        ]
        scores = [
            head(m).permute(0, 2, 3, 1).reshape(m.shape[0], -1, self.classes)
            for head, m in zip(self.scores, maps, strict=True)
        ]
        return torch.cat(boxes, 1), torch.cat(scores, 1).softmax(-1)


class BoxTransformer(nn.Module):
    """DETR in small: convolutional features, encoder, decoder with learned queries, box and class heads."""

    def __init__(self, width: int = 64, queries: int = 10, classes: int = 5) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            conv(3, 32, stride=2), conv(32, 64, stride=2), conv(64, 64, stride=2), nn.Conv2d(64, width, 1)
        )
        self.position = nn.Parameter(torch.zeros(1, 64, width))
        self.query = nn.Parameter(torch.zeros(1, queries, width))
        self.transformer = nn.Transformer(width, 4, 2, 2, 4 * width, batch_first=True)
        self.score = nn.Linear(width, classes + 1)
        self.box = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4), nn.Sigmoid())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """image[b, 3, 64, 64] -> (logits[b, queries, classes + 1], boxes[b, queries, 4])."""
        tokens = self.backbone(image).flatten(2).transpose(1, 2) + self.position
        decoded = self.transformer(tokens, self.query.expand(tokens.shape[0], -1, -1))
        return self.score(decoded), self.box(decoded)
