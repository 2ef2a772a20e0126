"""Draws a decoder language model of any size in the form in which onnxruntime-genai's model builder writes them.

python benchmarks/scale/decoder.py FOLDER [--gigabytes 6] [--hidden 3072 --neurons 8192 --layers 28 --heads 24 --kv-heads 8 --vocabulary 65536]

FOLDER/model.onnx: token numbers, an attention mask and a key-value cache in, logits and the longer cache out; SimplifiedLayerNormalization,
GroupQueryAttention with rotary embedding inside, SkipSimplifiedLayerNormalization, gated neurons. Weights are float16 in
FOLDER/model.onnx.data, written tensor by tensor; every tensor is drawn anew (ONNX Runtime shares packed weights of equal bytes). Units
differ in strength, so that a choice by norms means something.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

ALIGNED = 1 << 16
HEAD = 128
LONGEST = 4096
MICROSOFT = "com.microsoft"
SMALL = 1024  # elements that stay in the model's own file


@dataclass
class Shape:
    """Sizes of a decoder."""

    hidden: int = 3072
    neurons: int = 8192
    layers: int = 28
    heads: int = 24
    kv_heads: int = 8
    vocabulary: int = 65536
    head: int = HEAD

    @classmethod
    def of_bytes(cls, gigabytes: float) -> Shape:
        """Return sizes whose weights take about so many bytes (10^9) as float16."""
        wide = cls() if gigabytes < 9 else cls(4096, 11008, 32, 32, 8)
        layer = 2 * wide.hidden * wide.head * (wide.heads + wide.kv_heads) + 3 * wide.hidden * wide.neurons
        left = gigabytes * 1e9 / 2 - 2 * wide.vocabulary * wide.hidden
        wide.layers = max(round(left / layer), 1)
        return wide


@dataclass
class Drawing:
    """A model as it is built: nodes, and weights that go to the data file at once."""

    folder: Path
    seed: int = 0
    dtype: type = np.float16
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.random = np.random.default_rng(self.seed)
        self.data = (self.folder / "model.onnx.data").open("wb")

    def op(
        self,
        kind: str,
        inputs: list[str],
        name: str,
        domain: str = "",
        outputs: list[str] | None = None,
        **attributes: object,
    ) -> str:
        found = outputs or [f"{name}/output_0"]
        self.nodes.append(helper.make_node(kind, inputs, found, name, domain=domain, **attributes))
        return found[0]

    def stored(self, name: str, array: np.ndarray) -> str:
        """Write a tensor, in the model where it is small, else at the next aligned place of the data file."""
        tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
        if array.size < SMALL:
            tensor.raw_data = array.tobytes()
        else:
            start = self.data.tell() + -self.data.tell() % ALIGNED
            self.data.seek(start)
            self.data.write(memoryview(np.ascontiguousarray(array)).cast("B"))
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "model.onnx.data"), ("offset", start), ("length", array.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
        self.weights.append(tensor)
        return name

    def matrix(self, name: str, rows: int, columns: int, strength: np.ndarray | None = None) -> str:
        """Draw [rows, columns]; ``strength`` [columns] or [rows, 1] scales units."""
        drawn = self.random.standard_normal((rows, columns), np.float32)
        drawn *= np.float32(rows**-0.5)
        if strength is not None:
            drawn *= strength.astype(np.float32)
        return self.stored(name, drawn.astype(self.dtype))

    def linear(self, x: str, name: str, rows: int, columns: int, strength: np.ndarray | None = None) -> str:
        return self.op(
            "MatMul",
            [x, self.matrix(f"{name}.MatMul.weight", rows, columns, strength)],
            f"/{name.replace('.', '/')}/MatMul",
        )

    def spread(self, count: int) -> np.ndarray:
        """Return [count] strengths of units, log-normal."""
        return np.exp(0.5 * self.random.standard_normal(count))


def attention(draw: Drawing, shape: Shape, x: str, layer: int, places: list[str]) -> str:
    """Add attention; ``places``: lengths of keys, the longest, and the tables of the rotary embedding."""
    at, node = f"model.layers.{layer}.attn", f"/model/layers.{layer}/attn"
    groups = draw.spread(shape.kv_heads)
    queries = np.repeat(groups, shape.heads // shape.kv_heads * shape.head)
    q = draw.linear(x, f"{at}.q_proj", shape.hidden, shape.heads * shape.head, queries)
    k = draw.linear(x, f"{at}.k_proj", shape.hidden, shape.kv_heads * shape.head, np.repeat(groups, shape.head))
    v = draw.linear(x, f"{at}.v_proj", shape.hidden, shape.kv_heads * shape.head, np.repeat(groups, shape.head))
    past, present = ([f"{kind}.{layer}.{part}" for part in ("key", "value")] for kind in ("past_key_values", "present"))
    mixed = draw.op(
        "GroupQueryAttention", [q, k, v, *past, *places], f"{node}/GroupQueryAttention", MICROSOFT,
        [f"{node}/GroupQueryAttention/output_0", *present],
        num_heads=shape.heads, kv_num_heads=shape.kv_heads, scale=shape.head**-0.5, do_rotary=1, rotary_interleaved=0,
    )  # fmt: skip
    return draw.linear(mixed, f"{at}.o_proj", shape.heads * shape.head, shape.hidden)


def neurons(draw: Drawing, shape: Shape, x: str, layer: int) -> str:
    at, node = f"model.layers.{layer}.mlp", f"/model/layers.{layer}/mlp"
    strength = draw.spread(shape.neurons)
    gate = draw.linear(x, f"{at}.gate_proj", shape.hidden, shape.neurons, strength)
    up = draw.linear(x, f"{at}.up_proj", shape.hidden, shape.neurons, strength)
    opened = draw.op("Mul", [gate, draw.op("Sigmoid", [gate], f"{node}/act_fn/Sigmoid")], f"{node}/act_fn/Mul")
    return draw.linear(draw.op("Mul", [opened, up], f"{node}/Mul"), f"{at}.down_proj", shape.neurons, shape.hidden)


def lengths(draw: Drawing) -> list[str]:
    """Add what the mask says: int32[batch, 1] last place of keys, int32 the longest sequence."""
    at = "/model/attn_mask_reformat"
    total = draw.op("ReduceSum", ["attention_mask", draw.stored("ints.axis", np.array([1]))], f"{at}/ReduceSum")
    last = draw.op("Sub", [total, draw.stored("ints.one", np.array([1]))], f"{at}/Sub")
    last = draw.op("Cast", [last], f"{at}/Sub/Cast", to=TensorProto.INT32)
    sizes = draw.op("Shape", ["attention_mask"], f"{at}/Shape")
    longest = draw.op("Gather", [sizes, draw.stored("ints.second", np.array(1))], f"{at}/Gather", axis=0)
    return [last, draw.op("Cast", [longest], f"{at}/Gather/Cast", to=TensorProto.INT32)]


def rotary(draw: Drawing, shape: Shape) -> list[str]:
    angles = np.arange(LONGEST)[:, None] * 10000.0 ** (-np.arange(0, shape.head, 2) / shape.head)
    return [
        draw.stored("cos_cache", np.cos(angles).astype(draw.dtype)),
        draw.stored("sin_cache", np.sin(angles).astype(draw.dtype)),
    ]


def decoder(folder: Path, shape: Shape, seed: int = 0, dtype: type = np.float16) -> Path:
    """Write the model and return its place."""
    draw = Drawing(folder, seed, dtype)
    places = [*lengths(draw), *rotary(draw, shape)]
    table = draw.matrix("model.embed_tokens.weight", shape.vocabulary, shape.hidden, np.full(1, shape.vocabulary**0.5))
    stream, added = draw.op("Gather", [table, "input_ids"], "/model/embed_tokens/Gather"), ""
    for number in range(2 * shape.layers + 1):
        layer, ffn = divmod(number, 2)
        part = "final_norm" if layer == shape.layers else "post_attention" if ffn else "input"
        at = f"model.layers.{layer}.{part}_layernorm"
        gain = draw.stored(f"{at}.weight", (1 + 0.1 * draw.random.standard_normal(shape.hidden)).astype(dtype))
        node = f"/{at.replace('.layers.', '/layers.').replace('_layernorm', '')}/LayerNorm"
        if added:
            names = [f"{node}/output_0", "", "", f"{node}/output_3"]
            x = draw.op("SkipSimplifiedLayerNormalization", [stream, added, gain], node, MICROSOFT, names, epsilon=1e-5)
            stream = names[-1]
        else:
            x = draw.op("SimplifiedLayerNormalization", [stream, gain], node, axis=-1, epsilon=1e-5, stash_type=1)
        if layer < shape.layers:
            added = neurons(draw, shape, x, layer) if ffn else attention(draw, shape, x, layer, places)
    draw.nodes[-1].output[3:] = []
    weight = draw.matrix("lm_head.MatMul.weight", shape.hidden, shape.vocabulary)
    draw.op("MatMul", [x, weight], "/lm_head/MatMul", outputs=["logits"])
    return written(draw, shape)


def written(draw: Drawing, shape: Shape) -> Path:
    real = helper.np_dtype_to_tensor_dtype(np.dtype(draw.dtype))
    keys = [f"{layer}.{part}" for layer in range(shape.layers) for part in ("key", "value")]

    def cache(kind: str, length: str) -> list[onnx.ValueInfoProto]:
        sizes = ["batch_size", shape.kv_heads, length, shape.head]
        return [helper.make_tensor_value_info(f"{kind}.{key}", real, sizes) for key in keys]

    tokens = [("input_ids", "sequence_length"), ("attention_mask", "total_sequence_length")]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch_size", size]) for name, size in tokens]
    logits = helper.make_tensor_value_info("logits", real, ["batch_size", "sequence_length", shape.vocabulary])
    graph = helper.make_graph(
        draw.nodes, "main_graph", inputs + cache("past_key_values", "past_sequence_length"),
        [logits, *cache("present", "total_sequence_length")], draw.weights,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    path = draw.folder / "model.onnx"
    draw.data.close()
    path.write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="drawn").SerializeToString()
    )
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gigabytes", type=float)
    parser.add_argument("--seed", type=int, default=0)
    for name, value in vars(Shape()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    given = vars(parser.parse_args())
    folder, gigabytes, seed = (given.pop(name) for name in ("folder", "gigabytes", "seed"))
    print(decoder(folder, Shape.of_bytes(gigabytes) if gigabytes else Shape(**given), seed))


if __name__ == "__main__":
    main()
