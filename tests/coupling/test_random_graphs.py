"""Random networks composed of the case table's operators: every one must be cut exactly.

``ONNXPRUNE_EXAMPLES=5000`` runs that many; the suite runs a few hundred, the same ones each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.networks import feeds, network
from support.oracles import analysed, assert_early_values_are_slices, assert_sound, random_plan, run, same

EXAMPLES = int(os.environ.get("ONNXPRUNE_EXAMPLES", "300"))
Draw = Callable[[st.SearchStrategy], Any]
SIZE = 4  # height and width of every picture, any two of them can be added
UNARY = ("Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Softplus", "Erf", "HardSwish", "Elu", "Identity", "Softsign")
UNARY += ("Gelu", "Floor", "LeakyRelu", "Selu", "Mish", "Cos")
LOSSY = ("Softmax<axis=1>", "LpNormalization<axis=1>", "LogSoftmax<axis=1>")


class Builder:
    """Collects ONNX text; ``live`` holds the pictures (name, channels) that further operators may read."""

    def __init__(self, draw: Draw, channels: int):
        self.draw, self.lines, self.live = draw, [], [("x", channels)]

    def emit(self, text: str, channels: int) -> None:
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        self.live.append((name, channels))

    def inner(self, text: str) -> str:
        """Emit a value that is no picture and return its name."""
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        return name

    def pick(self, channels: int | None = None) -> tuple[str, int]:
        """Choose one of the newest pictures, of the given width if one is given."""
        fitting = [value for value in self.live if channels in (None, value[1])]
        return self.draw(st.sampled_from(fitting[-4:]))

    def number(self, *choices: int) -> int:
        return self.draw(st.sampled_from(choices))


def conv(b: Builder) -> None:
    name, c = b.pick()
    o, k = b.number(2, 3, 4, 6, 8), b.number(1, 3)
    bias = b.draw(st.sampled_from(["", f", %{o}"]))
    b.emit(f"Conv<pads=[{k // 2},{k // 2},{k // 2},{k // 2}]>({name}, %{o}x{c}x{k}x{k}{bias})", o)


def grouped(b: Builder) -> None:
    name, c = b.pick()
    group = b.draw(st.sampled_from([g for g in (1, 2, 3, 4, 6, 8, 12, 16, 24) if c % g == 0]))
    o = group * b.number(1, 2)
    b.emit(f"Conv<group={group}>({name}, %{o}x{c // group}x1x1, %{o})", o)


def transposed(b: Builder) -> None:
    name, c = b.pick()
    o = b.number(2, 4, 6)
    b.emit(f"ConvTranspose<pads=[1,1,1,1]>({name}, %{c}x{o}x3x3, %{o})", o)


def unary(b: Builder) -> None:
    name, c = b.pick()
    b.emit(f"{b.draw(st.sampled_from(UNARY))}({name})", c)


def lossy(b: Builder) -> None:
    name, c = b.pick()
    b.emit(f"{b.draw(st.sampled_from(LOSSY))}({name})", c)


def merge(b: Builder) -> None:
    name, c = b.pick()
    other, _ = b.pick(c)
    b.emit(f"{b.draw(st.sampled_from(['Add', 'Sub', 'Mul', 'Max', 'Min']))}({name}, {other})", c)


def constant(b: Builder) -> None:
    name, c = b.pick()
    shape = b.draw(st.sampled_from([f"{c}x1x1", f"1x{c}x1x1", "1", f"{c}x4x4", "4"]))
    b.emit(f"{b.draw(st.sampled_from(['Add', 'Mul', 'Sub', 'PRelu']))}({name}, %{shape})", c)


def batch_norm(b: Builder) -> None:
    name, c = b.pick()
    b.emit(f"BatchNormalization({name}, %{c}, %{c}, %{c}, %+{c})", c)


def group_norm(b: Builder) -> None:
    name, c = b.pick()
    group = b.draw(st.sampled_from([g for g in (1, 2, 3, 4) if c % g == 0]))
    b.emit(f"GroupNormalization<num_groups={group}>({name}, %{c}, %{c})", c)


def concat(b: Builder) -> None:
    parts = [b.pick() for _ in range(b.number(2, 2, 3))]
    if sum(c for _, c in parts) <= 24:
        b.emit(f"Concat<axis=1>({', '.join(name for name, _ in parts)})", sum(c for _, c in parts))


def split(b: Builder) -> None:
    name, c = b.pick()
    if c < 2:
        return
    first = b.draw(st.integers(1, c - 1))
    one, two = f"v{len(b.lines)}", f"u{len(b.lines)}"
    b.lines.append(f"{one}, {two} = Split<axis=1>({name}, @[{first}, {c - first}])")
    b.live += [(one, first), (two, c - first)]


def slices(b: Builder) -> None:
    name, c = b.pick()
    start, step = b.draw(st.integers(0, c - 1)), b.number(1, 1, 2)
    b.emit(f"Slice({name}, @[{start}], @[{c}], @[1], @[{step}])", len(range(start, c, step)))


def backwards(b: Builder) -> None:
    name, c = b.pick()
    b.emit(f"Slice({name}, @[-1], @[-{c + 1}], @[1], @[-1])", c)


def gather(b: Builder) -> None:
    name, c = b.pick()
    chosen = b.draw(st.lists(st.integers(-c, c - 1), min_size=1, max_size=6))
    b.emit(f"Gather<axis=1>({name}, @{chosen})", len(chosen))


def pad(b: Builder) -> None:
    name, c = b.pick()
    before, after = b.number(0, 1, 2), b.number(0, 1)
    b.emit(f"Pad({name}, @[0, {before}, 0, 0, 0, {after}, 0, 0])", c + before + after)


def tile(b: Builder) -> None:
    name, c = b.pick()
    if c <= 8:
        b.emit(f"Tile({name}, @[1, 2, 1, 1])", 2 * c)


def shuffle(b: Builder) -> None:
    name, c = b.pick()
    g = b.draw(st.sampled_from([g for g in (1, 2, 3, 4) if c % g == 0]))
    apart = b.inner(f"Reshape({name}, @[0, {g}, {c // g}, 4, 4])")
    swapped = b.inner(f"Transpose<perm=[0,2,1,3,4]>({apart})")
    b.emit(f"Reshape({swapped}, @[0, -1, 4, 4])", c)


def gate(b: Builder) -> None:
    name, c = b.pick()
    mean = b.inner(f"GlobalAveragePool({name})")
    less = b.inner(f"Conv({mean}, %3x{c}x1x1, %3)")
    active = b.inner(f"Relu({less})")
    more = b.inner(f"Conv({active}, %{c}x3x1x1, %{c})")
    scale = b.inner(f"Sigmoid({more})")
    b.emit(f"Mul({name}, {scale})", c)


def pixel_shuffle(b: Builder) -> None:
    name, c = b.pick()
    mode = b.draw(st.sampled_from(["DCR", "CRD"]))
    deep = b.inner(f"SpaceToDepth<blocksize=2>({name})")
    b.emit(f'DepthToSpace<blocksize=2, mode="{mode}">({deep})', c)


def mean_over_channels(b: Builder) -> None:
    name, _ = b.pick()
    b.emit(f"{b.draw(st.sampled_from(['ReduceMean', 'ReduceSum', 'ReduceMax', 'ReduceL2']))}({name}, @[1])", 1)


def tokens(b: Builder) -> None:
    """A small feed-forward block over the channels, in tokens."""
    name, c = b.pick()
    sizes = b.inner(f"Shape<end=2>({name})")
    target = b.inner(f"Concat<axis=0>({sizes}, @[16])")
    flat = b.inner(f"Reshape({name}, {target})")
    last = b.inner(f"Transpose<perm=[0,2,1]>({flat})")
    wide = b.inner(f"MatMul({last}, %{c}x6)")
    bent = b.inner(f"Gelu({wide})")
    back = b.inner(f"MatMul({bent}, %6x{c})")
    first = b.inner(f"Transpose<perm=[0,2,1]>({back})")
    b.emit(f"Reshape({first}, @[0, {c}, 4, 4])", c)


def stacked_attention(b: Builder) -> None:
    """Two heads of three over the pixels, with heads and batch in one axis, and the shapes computed."""
    name, c = b.pick()
    flat = b.inner(f"Reshape({name}, @[0, {c}, 16])")
    last = b.inner(f"Transpose<perm=[2,0,1]>({flat})")
    sizes = b.inner(f"Shape<start=0, end=1>({name})")
    twice = b.inner(f"Mul({sizes}, @[2])")
    target = b.inner(f"Concat<axis=0>(@[16], {twice}, @[3])")
    heads = []
    for perm in ("1,0,2", "1,2,0", "1,0,2"):
        wide = b.inner(f"MatMul({last}, %{c}x6)")
        apart = b.inner(f"Reshape({wide}, {target})")
        heads.append(b.inner(f"Transpose<perm=[{perm}]>({apart})"))
    scores = b.inner(f"MatMul({heads[0]}, {heads[1]})")
    weights = b.inner(f"Softmax({scores})")
    mixed = b.inner(f"MatMul({weights}, {heads[2]})")
    first = b.inner(f"Transpose<perm=[1,0,2]>({mixed})")
    joined = b.inner(f"Reshape({first}, @[16, -1, 6])")
    back = b.inner(f"MatMul({joined}, %6x{c})")
    turned = b.inner(f"Transpose<perm=[1,2,0]>({back})")
    b.emit(f"Reshape({turned}, @[0, {c}, 4, 4])", c)


def attention(b: Builder) -> None:
    """Two heads of three over the pixels of a picture."""
    name, c = b.pick()
    flat = b.inner(f"Reshape({name}, @[0, {c}, 16])")
    last = b.inner(f"Transpose<perm=[0,2,1]>({flat})")
    heads = []
    for perm in ("0,2,1,3", "0,2,3,1", "0,2,1,3"):
        wide = b.inner(f"MatMul({last}, %{c}x6)")
        shifted = b.inner(f"Add({wide}, %6)")
        apart = b.inner(f"Reshape({shifted}, @[0, 16, 2, 3])")
        heads.append(b.inner(f"Transpose<perm=[{perm}]>({apart})"))
    scores = b.inner(f"MatMul({heads[0]}, {heads[1]})")
    weights = b.inner(f"Softmax({scores})")
    mixed = b.inner(f"MatMul({weights}, {heads[2]})")
    joined = b.inner(f"Transpose<perm=[0,2,1,3]>({mixed})")
    flat = b.inner(f"Reshape({joined}, @[0, 16, 6])")
    back = b.inner(f"MatMul({flat}, %6x{c})")
    first = b.inner(f"Transpose<perm=[0,2,1]>({back})")
    b.emit(f"Reshape({first}, @[0, {c}, 4, 4])", c)


COMMON = (conv, conv, conv, grouped, grouped, unary, unary, merge, merge, concat, concat)
RARE = (transposed, lossy, constant, batch_norm, group_norm, split, slices, backwards, gather, pad, tile, shuffle, gate)
STEPS = [*COMMON, *RARE, pixel_shuffle, mean_over_channels, tokens, attention, stacked_attention]


@st.composite
def networks(draw: Draw) -> str:
    """Draw the text of a network with one to ten steps; two pictures end in the output."""
    builder = Builder(draw, 3)
    conv(builder)
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=9)):
        step(builder)
    name, channels = builder.live[-1]
    other, width = builder.pick()
    builder.lines.append(f"y1 = Conv({name}, %2x{channels}x1x1)")
    builder.lines.append(f"y2 = Conv({other}, %2x{width}x1x1)")
    return "\n".join([*builder.lines, "y = Add(y1, y2)"])


@settings(
    max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
@given(text=networks(), seed=st.integers(0, 100), lossless=st.booleans(), batch=st.sampled_from(["2", "N"]))
def test_random_networks_are_cut_exactly(text: str, seed: int, lossless: bool, batch: str) -> None:
    """With every oracle; where the batch is free, five samples at once are five samples one by one."""
    model = network(text, f"float[{batch},3,4,4] x", f"float[{batch},2,4,4] y", seed=seed)
    analysis = analysed(model, () if lossless else ("statistics",))
    plan = random_plan(analysis, np.random.default_rng(seed))
    small = assert_sound(analysis, plan, tolerance=1e-3)
    assert_early_values_are_slices(analysis, plan, small)
    if batch == "N":
        five = feeds(small, free=5)
        singly = [run(small, {"x": five["x"][i : i + 1]})["y"] for i in range(5)]
        same({"y": np.concatenate(singly)}, run(small, five), 1e-3)
