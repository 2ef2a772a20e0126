"""Train models/shapes_detector.onnx, a small detector in the manner of YOLO, or draw pictures for it.

    python models/train_shapes.py train shapes_detector.onnx
    python models/train_shapes.py pictures FOLDER [COUNT [SEED]]

Rectangles in three colours lie on noise; the colour is the class. Gradients are those of onnxprune's own backward graphs, steps are Adam's (Kingma
and Ba 2015, algorithm 1): no training framework is needed. Input: images float32[batch, 3, height, width] in [0, 1], RGB, sizes
are multiples of 8. Output: found float32[batch, 4 + 3, places], centre and size of a box in pixels beside class scores.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

SIZE, CELL, BATCH, STEPS, RATE = 64, 8, 16, 1500, 4e-3
COLOURS = ((0.85, 0.2, 0.15), (0.15, 0.7, 0.25), (0.2, 0.3, 0.9))
NOISE = 0.08
# name, inputs, weight's shape, stride
LAYERS = (
    ("stem", "images", (16, 3, 3, 3), 2), ("down", "stem", (32, 16, 3, 3), 2), ("enter", "down", (32, 32, 1, 1), 1),
    ("first", "right", (16, 16, 3, 3), 1), ("second", "first", (16, 16, 3, 3), 1), ("leave", "joined", (32, 48, 1, 1), 1),
    ("deep", "leave", (48, 32, 3, 3), 2), ("neck", "deep", (48, 48, 3, 3), 1),
    ("boxing", "neck", (32, 48, 3, 3), 1), ("naming", "neck", (32, 48, 3, 3), 1),
)  # fmt: skip
BODY = (
    "left, right = Split<axis=1, num_outputs=2>(enter)",
    "sum = Add(right, second)\njoined = Concat<axis=1>(left, right, sum)",
)
HEADS = "boxes = Conv(boxing, boxes_weight, boxes_bias)\nnames = Conv(naming, names_weight, names_bias)"
DECODED = """
shape = Shape(boxes)
high = Gather(shape, two)
wide = Gather(shape, three)
across = Range(zero, wide, one)
along = Range(zero, high, one)
across_cells = Cast<to=1>(across)
along_cells = Cast<to=1>(along)
columns = Reshape(across_cells, row_shape)
rows = Reshape(along_cells, column_shape)
dx, dy, extent = Split<axis=1>(boxes, parts)
x = Add(dx, columns)
y = Add(dy, rows)
cells = Concat<axis=1>(x, y, extent)
pixels = Mul(cells, cell)
scores = Sigmoid(names)
places = Concat<axis=1>(pixels, scores)
found = Reshape(places, flat)
"""
SIZES = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "row_shape": [1, 1, 1, -1], "column_shape": [1, 1, -1, 1],
    "parts": [1, 1, 2], "flat": [0, 7, -1],
}  # fmt: skip
LOSS = """
soft = Softplus(names)
agreed = Mul(names, there)
entropy = Sub(soft, agreed)
entropies = Mul(entropy, name_weight)
wrong = Sub(boxes, box)
square = Mul(wrong, wrong)
squares = Mul(square, box_weight)
"""
Thing = tuple[float, float, float, float, int]


def scene(draw: np.random.Generator) -> tuple[np.ndarray, list[Thing]]:
    """Return uint8[SIZE, SIZE, 3] and what is on it: centre, width and height in pixels, and the class."""
    slope = np.linspace(-0.15, 0.15, SIZE)[:, None, None] * draw.uniform(-1, 1)
    picture = draw.uniform(0.25, 0.75) + slope + NOISE * draw.standard_normal((SIZE, SIZE, 3))
    down, across = np.mgrid[:SIZE, :SIZE]
    there: list[Thing] = []
    for _ in range(draw.integers(1, 4)):
        width, height = draw.uniform(12, 24, 2)
        x, y = draw.uniform(12, SIZE - 12, 2)
        if any(abs(x - other[0]) < 26 and abs(y - other[1]) < 26 for other in there):
            continue
        kind = int(draw.integers(len(COLOURS)))
        inside = np.maximum(abs(across - x) / width, abs(down - y) / height) <= 0.5
        picture[inside] = np.array(COLOURS[kind]) * draw.uniform(0.7, 1.1)
        picture[inside] += NOISE * draw.standard_normal((inside.sum(), 3))
        there.append((x, y, width, height, kind))
    return (picture.clip(0, 1) * 255).astype(np.uint8), there


def lesson(draw: np.random.Generator) -> dict[str, np.ndarray]:
    """Return pictures and what the two heads are to say of them, with how much every place counts."""
    side = SIZE // CELL
    scenes = [scene(draw) for _ in range(BATCH)]
    box, there = np.zeros((BATCH, 4, side, side)), np.zeros((BATCH, len(COLOURS), side, side))
    for n, (_, things) in enumerate(scenes):
        for x, y, width, height, kind in things:
            row, column = int(y // CELL), int(x // CELL)
            there[n, kind, row, column] = 1
            box[n, :, row, column] = x / CELL - column, y / CELL - row, width / CELL, height / CELL
    near = there.max(axis=1, keepdims=True)
    images = np.stack([picture for picture, _ in scenes]).transpose(0, 3, 1, 2) / 255
    found = {
        "images": images, "box": box, "there": there, "box_weight": near / near.sum(),
        "name_weight": (1 + 4 * there) / near.sum(),
    }  # fmt: skip
    return {name: value.astype(np.float32) for name, value in found.items()}


def layers() -> str:
    """Return the convolutions, each with x * sigmoid(x) behind it, as ONNX text."""
    lines = []
    for name, source, shape, stride in LAYERS:
        pad = shape[2] // 2
        how = f"kernel_shape=[{shape[2]}, {shape[2]}], strides=[{stride}, {stride}], pads=[{pad}, {pad}, {pad}, {pad}]"
        lines += [
            f"{name}_conv = Conv<{how}>({source}, {name}_weight, {name}_bias)",
            f"{name}_gate = Sigmoid({name}_conv)", f"{name} = Mul({name}_conv, {name}_gate)",
        ]  # fmt: skip
        lines += {"enter": BODY[:1], "second": BODY[1:]}.get(name, ())
    return "\n".join(lines)


def model(text: str, inputs: str, outputs: str, weights: dict[str, np.ndarray]) -> ModelProto:
    """Return a model of the lines with the weights that it reads."""
    made = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]>\nshapes ({inputs}) => ({outputs}) {{\n{text}\n}}'
    )
    held = {name: np.array(value, np.int64) for name, value in SIZES.items()} | {"cell": np.float32(CELL)} | weights
    read = {name for node in made.graph.node for name in node.input}
    made.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in held.items() if name in read
    )
    return made


def drawn(draw: np.random.Generator) -> dict[str, np.ndarray]:
    """Return weights as they begin."""
    shapes = {name: shape for name, _, shape, _ in LAYERS} | {"boxes": (4, 32, 1, 1), "names": (3, 32, 1, 1)}
    found = {}
    for name, shape in shapes.items():
        found[f"{name}_weight"] = (draw.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
        found[f"{name}_bias"] = np.full(shape[0], -3 if name == "names" else 0, np.float32)
    return found


def train(seed: int = 0) -> ModelProto:
    """Train from drawn weights and return the model."""
    from onnxruntime import InferenceSession

    from onnxprune.grad.builder import backward

    draw = np.random.default_rng(seed)
    weights = drawn(draw)
    side = SIZE // CELL
    inputs = f"float[{BATCH},3,{SIZE},{SIZE}] images, float[{BATCH},4,{side},{side}] box, float[{BATCH},3,{side},{side}] there, "
    inputs += f"float[{BATCH},1,{side},{side}] box_weight, float[{BATCH},3,{side},{side}] name_weight"
    whole = model(f"{layers()}\n{HEADS}{LOSS}", inputs, "float[] entropies, float[] squares", weights)
    session = InferenceSession(backward(whole, list(weights), parameters_as_inputs=True).SerializeToString())
    first, second = ({name: np.zeros_like(value) for name, value in weights.items()} for _ in range(2))
    for step in range(1, STEPS + 1):
        rate = RATE * min(1, step / 100) * 0.5 * (1 + np.cos(np.pi * step / STEPS))
        loss, *gradients = session.run(["loss", *(f"{name}:grad" for name in weights)], lesson(draw) | weights)
        for (name, value), gradient in zip(weights.items(), gradients, strict=True):
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            root = np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8
            weights[name] = (value - rate * first[name] / (1 - 0.9**step) / root).astype(np.float32)
        if step % 100 == 0:
            print(step, f"{float(loss):.4f}", flush=True)
    made = model(
        f"{layers()}\n{HEADS}{DECODED}", "float[batch,3,height,width] images", "float[batch,7,places] found", weights
    )
    onnx.checker.check_model(made, full_check=True)
    return made


def pictures(folder: Path, count: int = 256, seed: int = 1) -> None:
    """Write pictures that nothing was trained on, as PNG files."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng([seed, 1])
    for number in range(count):
        Image.fromarray(scene(draw)[0]).save(folder / f"{number:04d}.png")


if __name__ == "__main__":
    if sys.argv[1] == "train":
        onnx.save(train(), sys.argv[2])
    else:
        pictures(Path(sys.argv[2]), *map(int, sys.argv[3:]))
