"""Sequence networks: convolutional, recurrent, Conformer, mixtures, and a decoder with a key-value cache."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Tcn(nn.Module):
    """Temporal convolutional network: causal dilated convolutions with residuals."""

    def __init__(self, width: int = 32, levels: int = 4, kernel: int = 3, classes: int = 6) -> None:
        super().__init__()
        sizes = [8] + [width] * levels
        self.kernel = kernel
        self.first = nn.ModuleList(nn.Conv1d(sizes[i], width, kernel, dilation=1 << i) for i in range(levels))
        self.second = nn.ModuleList(nn.Conv1d(width, width, kernel, dilation=1 << i) for i in range(levels))
        self.shortcut = nn.ModuleList(
            nn.Conv1d(size, width, 1) if size != width else nn.Identity() for size in sizes[:-1]
        )
        self.head = nn.Linear(width, classes)

    def _causal(self, layer: nn.Conv1d, x: Tensor) -> Tensor:
        return F.relu(layer(F.pad(x, ((self.kernel - 1) * layer.dilation[0], 0))))

    def forward(self, signal: Tensor) -> Tensor:
        """signal[b, 8, t] -> logits[b, classes] at the last step."""
        x = signal
        for first, second, shortcut in zip(self.first, self.second, self.shortcut, strict=True):
            x = F.relu(self._causal(second, self._causal(first, x)) + shortcut(x))
        return self.head(x[:, :, -1])


class WaveNet(nn.Module):
    """WaveNet: tanh-sigmoid gates over one fused convolution, residual and skip sums."""

    def __init__(self, residual: int = 32, skip: int = 48, layers: int = 5, classes: int = 64) -> None:
        super().__init__()
        self.embed = nn.Conv1d(1, residual, 1)
        self.dilated = nn.ModuleList(nn.Conv1d(residual, 2 * residual, 2, dilation=1 << i) for i in range(layers))
        self.out = nn.ModuleList(nn.Conv1d(residual, residual, 1) for _ in range(layers))
        self.skip = nn.ModuleList(nn.Conv1d(residual, skip, 1) for _ in range(layers))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(skip, skip, 1), nn.ReLU(), nn.Conv1d(skip, classes, 1))

    def forward(self, wave: Tensor) -> Tensor:
        """wave[b, 1, t] -> logits[b, classes, t]."""
        x, total = self.embed(wave), 0
        for dilated, out, skip in zip(self.dilated, self.out, self.skip, strict=True):
            value, gate = dilated(F.pad(x, (dilated.dilation[0], 0))).chunk(2, 1)
            z = torch.tanh(value) * torch.sigmoid(gate)
            x, total = x + out(z), total + skip(z)
        return self.head(total)


CELLS: dict[str, type[nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class Recurrent(nn.Module):
    """Embedding or dense entry, stacked recurrent layers, dense head on the last or on every step."""

    def __init__(
        self,
        cell: str,
        layers: int = 2,
        both: bool = True,
        tokens: bool = True,
        every: bool = False,
        state: bool = False,
    ) -> None:
        super().__init__()
        self.enter = nn.Embedding(200, 32) if tokens else nn.Linear(12, 32)
        self.cell = CELLS[cell](32, 48, layers, bidirectional=both, batch_first=True)
        self.norm = nn.LayerNorm(48 * (1 + both))
        self.head = nn.Linear(48 * (1 + both), 10)
        self.every, self.state = every, state

    def forward(self, steps: Tensor) -> tuple[Tensor, ...]:
        """steps[b, t] or [b, t, 12] -> logits, and the final hidden state where asked."""
        y, state = self.cell(self.enter(steps))
        hidden = state[0] if isinstance(state, tuple) else state
        if self.every:
            result = self.head(self.norm(y))
        else:
            last = torch.cat([hidden[-2], hidden[-1]], 1) if self.cell.bidirectional else hidden[-1]
            result = self.head(self.norm(last))
        return (result, hidden) if self.state else (result,)


class Crnn(nn.Module):
    """Text recogniser: convolutions, columns as steps, two bidirectional LSTMs with a dense layer between them."""

    def __init__(self, width: int = 16, hidden: int = 32, classes: int = 37) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d((2, 1)),
            nn.Conv2d(2 * width, 4 * width, (8, 2)), nn.ReLU(),
        )  # fmt: skip
        self.first = nn.LSTM(4 * width, hidden, bidirectional=True)
        self.middle = nn.Linear(2 * hidden, hidden)
        self.second = nn.LSTM(hidden, hidden, bidirectional=True)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, line: Tensor) -> Tensor:
        """line[b, 1, 32, w] -> log-probabilities[t, b, classes]."""
        steps = self.convs(line).squeeze(2).permute(2, 0, 1)
        return self.head(self.second(self.middle(self.first(steps)[0]))[0]).log_softmax(-1)


class Seq2Seq(nn.Module):
    """GRU encoder whose final state starts a GRU decoder with dot-product attention over the encoder steps."""

    def __init__(self, width: int = 48, vocabulary: int = 200) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.encode, self.decode = nn.GRU(width, width, batch_first=True), nn.GRU(width, width, batch_first=True)
        self.join = nn.Linear(2 * width, width)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """source[b, s], target[b, t] -> logits[b, t, vocabulary]; the head is the embedding itself."""
        memory, state = self.encode(self.embed(source))
        y, _ = self.decode(self.embed(target), state)
        context = torch.softmax(y @ memory.transpose(1, 2), -1) @ memory
        return torch.tanh(self.join(torch.cat([y, context], -1))) @ self.embed.weight.t()


class ConformerBlock(nn.Module):
    """Half feed-forward, attention, gated depthwise convolution, half feed-forward."""

    def __init__(self, width: int, heads: int = 4, kernel: int = 7) -> None:
        super().__init__()
        self.heads = heads
        self.feeds = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
            for _ in range(2)
        )
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.enter = nn.Sequential(nn.Conv1d(width, 2 * width, 1), nn.GLU(1))
        self.depthwise = nn.Sequential(
            nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width), nn.BatchNorm1d(width), nn.SiLU()
        )
        self.leave, self.before, self.last = nn.Conv1d(width, width, 1), nn.LayerNorm(width), nn.LayerNorm(width)

    def _attend(self, x: Tensor) -> Tensor:
        b, t, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, t, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = torch.softmax(q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5, -1)
        return self.out((scores @ v).transpose(1, 2).reshape(b, t, width))

    def forward(self, x: Tensor) -> Tensor:
        """x[b, t, width] -> the same shape."""
        x = x + 0.5 * self.feeds[0](x)
        x = x + self._attend(x)
        x = x + self.leave(self.depthwise(self.enter(self.before(x).transpose(1, 2)))).transpose(1, 2)
        return self.last(x + 0.5 * self.feeds[1](x))


class Conformer(nn.Module):
    """Speech encoder: strided 2-D convolutions over the spectrogram, then Conformer blocks."""

    def __init__(self, width: int = 64, blocks: int = 2, mels: int = 40, classes: int = 30) -> None:
        super().__init__()
        self.subsample = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.enter = nn.Linear(16 * mels // 4, width)
        self.blocks = nn.Sequential(*(ConformerBlock(width) for _ in range(blocks)))
        self.head = nn.Linear(width, classes)

    def forward(self, mels: Tensor) -> Tensor:
        """mels[b, t, 40] -> logits[b, t / 4, classes]."""
        x = self.subsample(mels.unsqueeze(1))
        return self.head(self.blocks(self.enter(x.transpose(1, 2).flatten(2))))


class HiFiGan(nn.Module):
    """Vocoder generator: transposed convolutions and the mean of residual blocks with different kernels."""

    def __init__(self, width: int = 64, mels: int = 40) -> None:
        super().__init__()
        self.enter = nn.Conv1d(mels, width, 7, padding=3)
        self.ups = nn.ModuleList(nn.ConvTranspose1d(width >> i, width >> (i + 1), 8, 4, 2) for i in range(2))
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                nn.Conv1d(width >> (i + 1), width >> (i + 1), k, padding=k // 2 * d, dilation=d)
                for k, d in ((3, 1), (5, 2), (7, 3))
            )
            for i in range(2)
        )
        self.head = nn.Conv1d(width >> 2, 1, 7, padding=3)

    def forward(self, mels: Tensor) -> Tensor:
        """mels[b, 40, t] -> wave[b, 1, 16 t]."""
        x = self.enter(mels)
        for up, blocks in zip(self.ups, self.blocks, strict=True):
            x = up(F.leaky_relu(x, 0.1))
            x = sum(x + block(F.leaky_relu(x, 0.1)) for block in blocks) / len(blocks)
        return torch.tanh(self.head(F.leaky_relu(x)))


class RootMeanSquare(nn.Module):
    """RMSNorm written out, as decoders export it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x[..., width] -> the same shape."""
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class CachedDecoder(nn.Module):
    """Decoder with rotary positions, grouped-query attention, gated feed-forward, keys and values in and out."""

    def __init__(
        self, width: int = 64, heads: int = 8, groups: int = 2, layers: int = 2, vocabulary: int = 300
    ) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.embed = nn.Embedding(vocabulary, width)
        narrow = groups * self.size
        self.norms = nn.ModuleList(RootMeanSquare(width) for _ in range(2 * layers + 1))
        self.q, self.o = (nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers)) for _ in range(2))
        self.k, self.v = (nn.ModuleList(nn.Linear(width, narrow, bias=False) for _ in range(layers)) for _ in range(2))
        self.up = nn.ModuleList(nn.Linear(width, 6 * width, bias=False) for _ in range(layers))
        self.down = nn.ModuleList(nn.Linear(3 * width, width, bias=False) for _ in range(layers))
        self.register_buffer("frequency", 10000.0 ** (-torch.arange(0, self.size, 2) / self.size), persistent=False)

    def _rotate(self, x: Tensor, position: Tensor) -> Tensor:
        angle = position[:, None, :, None].float() * self.frequency
        cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
        low, high = x.chunk(2, -1)
        return x * cos + torch.cat([-high, low], -1) * sin

    def _split(self, x: Tensor, heads: int) -> Tensor:
        return x.view(x.shape[0], -1, heads, self.size).transpose(1, 2)

    def forward(self, ids: Tensor, position: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """ids and position[b, t], past[layers, 2, b, groups, p, size] -> (logits[b, t, v], present of p + t steps)."""
        x, present = self.embed(ids), []
        for layer, old in enumerate(past.unbind(0)):
            y = self.norms[2 * layer](x)
            q = self._rotate(self._split(self.q[layer](y), self.heads), position)
            k = torch.cat([old[0], self._rotate(self._split(self.k[layer](y), self.groups), position)], 2)
            v = torch.cat([old[1], self._split(self.v[layer](y), self.groups)], 2)
            present.append(torch.stack([k, v]))
            k, v = (self._repeat(value) for value in (k, v))
            weights = torch.softmax(q @ k.transpose(2, 3) / self.size**0.5, -1)
            x = x + self.o[layer]((weights @ v).transpose(1, 2).reshape(x.shape))
            gate, value = self.up[layer](self.norms[2 * layer + 1](x)).chunk(2, -1)
            x = x + self.down[layer](F.silu(gate) * value)
        return self.norms[-1](x) @ self.embed.weight.t(), torch.stack(present)

    def _repeat(self, x: Tensor) -> Tensor:
        b, groups, steps, size = x.shape
        repeats = self.heads // groups
        return x[:, :, None].expand(b, groups, repeats, steps, size).reshape(b, groups * repeats, steps, size)


class MixtureOfExperts(nn.Module):
    """Dense mixture: all experts run as batched products over stacked weights, weighted by a softmax router."""

    def __init__(self, width: int = 32, experts: int = 4, hidden: int = 64) -> None:
        super().__init__()
        self.enter = nn.Linear(16, width)
        self.router = nn.Linear(width, experts)
        self.first = nn.Parameter(torch.zeros(experts, width, hidden))
        self.second = nn.Parameter(torch.zeros(experts, hidden, width))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """x[b, 16] -> logits[b, 5]."""
        x = self.enter(x)
        hidden = F.gelu(torch.einsum("bw,ewh->beh", x, self.first))
        mixed = torch.einsum("beh,ehw->bew", hidden, self.second)
        return self.head(x + (self.router(x).softmax(-1)[:, :, None] * mixed).sum(1))


class TwoTowers(nn.Module):
    """Recommender: embedding tables, a dense tower, pairwise products (factorisation machine) and a deep head."""

    def __init__(self, fields: int = 4, width: int = 16) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(50, width) for _ in range(fields))
        self.dense = nn.Sequential(nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, width), nn.ReLU())
        self.deep = nn.Sequential(
            nn.Linear((fields + 1) * width + width, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 1)
        )

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        """dense[b, 13], sparse[b, fields] -> probability[b, 1]."""
        vectors = torch.stack([self.dense(dense), *(table(sparse[:, i]) for i, table in enumerate(self.tables))], 1)
        crossed = 0.5 * (vectors.sum(1) ** 2 - (vectors**2).sum(1))
        return torch.sigmoid(self.deep(torch.cat([vectors.flatten(1), crossed], 1)))
