"""Small decoder language models in the forms that the model builder of ONNX Runtime and optimum write, weights drawn."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
INT64 = TensorProto.INT64
LONGEST = 64


@dataclass(frozen=True)
class Form:
    """Sizes and spelling of a decoder.

    ``attention``: grouped (GroupQueryAttention), multihead (MultiHeadAttention with past) or spelled (a Concat of past and keys, as
    optimum exports). ``rotary``: inside, nodes or none. ``bits``: 0 for floats, 4 or 8 for MatMulNBits in blocks of ``block``.
    ``open_width``: the file says nothing of the width of the cache. ``merged``: an If between runs with and without a past.
    """

    attention: str = "grouped"
    hidden: int = 64
    neurons: int = 96
    layers: int = 2
    heads: int = 4
    keys: int = 2
    head: int = 16
    vocabulary: int = 50
    dtype: type = np.float32
    rotary: str = "inside"
    packed: bool = False
    bias: bool = False
    qk_norm: bool = False
    norm: str = "rms"  # or layer
    window: int = -1
    softcap: float = 0.0
    bits: int = 0
    block: int = 32
    zero_points: bool = False
    tied: bool = False
    gate_up: bool = False
    open_width: bool = False
    merged: bool = False
    sliding: bool = False  # the first layer's cache holds its window alone


@dataclass
class Drawing:
    """A graph as it is built."""

    form: Form
    random: np.random.Generator
    nodes: list[NodeProto] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)
    count: int = 0

    def op(self, kind: str, inputs: list[str], outputs: list[str] | None = None, domain: str = "", **attributes) -> str:
        self.count += 1
        found = outputs or [f"{kind}_{self.count}"]
        self.nodes.append(helper.make_node(kind, inputs, found, f"/{kind}_{self.count}", domain=domain, **attributes))
        return found[0]

    def own(self, kind: str, inputs: list[str], outputs: list[str] | None = None, **attributes) -> str:
        return self.op(kind, inputs, outputs, MICROSOFT, **attributes)

    def stored(self, name: str, array: np.ndarray) -> str:
        if all(tensor.name != name for tensor in self.tensors):
            self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def ints(self, *values: int) -> str:
        name = "ints_" + "_".join(map(str, values))
        return self.stored(name, np.array(values, np.int64))

    def floats(self, name: str, *shape: int, around: float = 0.0, spread: float = 0.3) -> str:
        return self.stored(name, (around + spread * self.random.standard_normal(shape)).astype(self.form.dtype))

    def linear(self, x: str, name: str, rows: int, columns: int, bias: bool = False) -> str:
        form = self.form
        strength = np.exp(0.5 * self.random.standard_normal(columns))
        matrix = self.random.standard_normal((rows, columns)) * rows**-0.5 * strength
        if form.bits:
            product = self.quantised(x, name, matrix)
        else:
            product = self.op("MatMul", [x, self.stored(f"{name}.weight", matrix.astype(form.dtype))])
        return self.op("Add", [product, self.floats(f"{name}.bias", columns)]) if bias else product

    def quantised(self, x: str, name: str, matrix: np.ndarray) -> str:
        form, (rows, columns) = self.form, matrix.shape
        packed, scales = packed_blocks(matrix.T, form.bits, form.block)
        inputs = [x, self.stored(f"{name}.weight_Q", packed), self.stored(f"{name}.scales", scales.astype(form.dtype))]
        if form.zero_points:
            blocks = rows // form.block
            points = self.random.integers(0, 1 << form.bits, (columns, blocks))
            inputs.append(self.stored(f"{name}.zero_points", packed_points(points, form.bits)))
        return self.own(
            "MatMulNBits", inputs, K=rows, N=columns, bits=form.bits, block_size=form.block, accuracy_level=1
        )

    def normed(self, name: str, stream: str, added: str) -> tuple[str, str]:
        """Return the norm of a stream, with what is added to it before, and the sum."""
        form = self.form
        gain = self.floats(f"{name}.weight", form.hidden, around=1.0, spread=0.1)
        shift = [self.floats(f"{name}.bias", form.hidden)] if form.norm == "layer" else []
        kind = "LayerNormalization" if shift else "SimplifiedLayerNormalization"
        if not added:
            return self.op(kind, [stream, gain, *shift], axis=-1, epsilon=1e-5), stream
        if form.attention == "spelled":
            total = self.op("Add", [stream, added])
            return self.op(kind, [total, gain, *shift], axis=-1, epsilon=1e-5), total
        outputs = [f"{name}/output", "", "", f"{name}/sum"]
        return self.own(f"Skip{kind}", [stream, added, gain, *shift], outputs, epsilon=1e-5), outputs[3]


def packed_blocks(rows: np.ndarray, bits: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8[n, blocks, block * bits / 8] and scales [n, blocks] of [n, k]."""
    n, k = rows.shape
    parts = rows.reshape(n, k // block, block)
    half = 1 << (bits - 1)
    scales = np.abs(parts).max(-1) / (half - 1)
    whole = np.clip(np.round(parts / scales[..., None]) + half, 0, 2 * half - 1).astype(np.uint8)
    if bits == 4:
        whole = whole[..., ::2] | (whole[..., 1::2] << 4)
    return whole, scales


def packed_points(points: np.ndarray, bits: int) -> np.ndarray:
    if bits == 8:
        return points.astype(np.uint8)
    even = np.pad(points, ((0, 0), (0, points.shape[1] % 2)))
    return (even[:, ::2] | (even[:, 1::2] << 4)).astype(np.uint8)


# --- attention ------------------------------------------------------------------------------------------------------


def _projected(draw: Drawing, x: str, at: str) -> list[str]:
    """Return queries, keys and values, or all three in one value."""
    form = draw.form
    widths = [form.heads * form.head, form.keys * form.head, form.keys * form.head]
    if form.packed:
        whole = draw.linear(x, f"{at}.qkv", form.hidden, sum(widths), form.bias)
        if not form.qk_norm:
            return [whole]
        parts = [f"{at}/{part}" for part in "qkv"]
        draw.op("Split", [whole, draw.ints(*widths)], parts, axis=-1)
    else:
        parts = [
            draw.linear(x, f"{at}.{part}", form.hidden, n, form.bias) for part, n in zip("qkv", widths, strict=True)
        ]
    if form.qk_norm:
        for number, name in enumerate("qk"):
            each = draw.op("Reshape", [parts[number], draw.ints(0, -1, form.head)])
            gain = draw.floats(f"{at}.{name}_norm", form.head, around=1.0, spread=0.1)
            each = draw.op("SimplifiedLayerNormalization", [each, gain], axis=-1, epsilon=1e-5)
            parts[number] = draw.op("Reshape", [each, draw.ints(0, -1, widths[number])])
    return parts


def _angles(draw: Drawing) -> list[str]:
    form = draw.form
    angles = np.arange(LONGEST)[:, None] * 10000.0 ** (-np.arange(0, form.head, 2) / form.head)
    return [draw.stored(n, f(angles).astype(form.dtype)) for n, f in (("cos_cache", np.cos), ("sin_cache", np.sin))]


def _turned(draw: Drawing, parts: list[str]) -> list[str]:
    """Apply rotary positions outside of attention to queries and keys."""
    form = draw.form
    if form.rotary != "nodes":
        return parts
    turned = [
        draw.own("RotaryEmbedding", [part, "position_ids", *_angles(draw)], num_heads=heads)
        for part, heads in zip(parts, (form.heads, form.keys), strict=False)
    ]
    return [*turned, parts[2]]


def _grouped(draw: Drawing, parts: list[str], layer: int) -> str:
    form = draw.form
    places = _lengths(draw)
    tables = _angles(draw) if form.rotary == "inside" else []
    past, present = _cache_names(layer)
    sliding = form.sliding and layer == 0
    return draw.own(
        "GroupQueryAttention", [*parts, *[""] * (3 - len(parts)), *past, *places, *tables],
        [f"attention_{layer}", *present],
        num_heads=form.heads, kv_num_heads=form.keys, scale=form.head**-0.5, do_rotary=int(form.rotary == "inside"),
        local_window_size=-1 if form.sliding and layer else form.window, softcap=form.softcap,
        **({"sliding_window_cache": 1} if sliding else {}),
    )  # fmt: skip


def _lengths(draw: Drawing) -> list[str]:
    """Return what a mask says: int32[batch, 1] last place of keys, int32 the longest sequence."""
    if any("seqlens" in node.output for node in draw.nodes):
        return ["seqlens", "longest"]
    total = draw.op("ReduceSum", ["attention_mask", draw.ints(1)])
    last = draw.op("Sub", [total, draw.ints(1)])
    draw.op("Cast", [last], ["seqlens"], to=TensorProto.INT32)
    second = draw.stored("second", np.array(1, np.int64))
    size = draw.op("Gather", [draw.op("Shape", ["attention_mask"]), second], axis=0)
    draw.op("Cast", [size], ["longest"], to=TensorProto.INT32)
    return ["seqlens", "longest"]


def _cache_names(layer: int) -> tuple[list[str], list[str]]:
    return tuple([f"{kind}.{layer}.{part}" for part in ("key", "value")] for kind in ("past_key_values", "present"))  # type: ignore[return-value]


def _multihead(draw: Drawing, parts: list[str], layer: int) -> str:
    form = draw.form
    past, present = _cache_names(layer)
    return draw.own(
        "MultiHeadAttention", [*parts, "", "", _additive(draw, cast=True), *past], [f"attention_{layer}", *present],
        num_heads=form.heads, scale=form.head**-0.5,
    )  # fmt: skip


def _additive(draw: Drawing, cast: bool = False) -> str:
    """Return [batch, 1, steps, total]: 0 where a key may be seen, else much below."""
    if any("additive" in node.output for node in draw.nodes):
        return "additive"
    second = draw.stored("second", np.array(1, np.int64))
    total, steps = (draw.op("Gather", [draw.op("Shape", [n]), second], axis=0) for n in ("attention_mask", "input_ids"))
    numbers = [draw.stored(f"number_{n}", np.array(n, np.int64)) for n in (0, 1)]
    keys = draw.op("Range", [numbers[0], total, numbers[1]])
    places = draw.op("Range", [draw.op("Sub", [total, steps]), total, numbers[1]])
    seen = draw.op("GreaterOrEqual", [draw.op("Unsqueeze", [places, draw.ints(1)]), keys])
    counts = draw.op("Cast", [draw.op("Unsqueeze", ["attention_mask", draw.ints(1)])], to=TensorProto.BOOL)
    both = draw.op("Unsqueeze", [draw.op("And", [seen, counts]), draw.ints(1)])
    levels = [draw.stored(f"level_{n}", np.array(v, draw.form.dtype)) for n, v in enumerate((0.0, -1e4))]
    return draw.op("Where", [both, *levels], ["additive"])


def _spelled(draw: Drawing, parts: list[str], layer: int) -> str:
    form = draw.form
    past, present = _cache_names(layer)
    heads = []
    for part, count in zip(parts, (form.heads, form.keys, form.keys), strict=True):
        split = draw.op("Reshape", [part, draw.ints(0, 0, count, form.head)])
        heads.append(draw.op("Transpose", [split], perm=[0, 2, 1, 3]))
    whole = [heads[0]]
    for each, before, name in zip(heads[1:], past, present, strict=True):
        grown = draw.op("Concat", [before, each], [name], axis=2)
        if form.heads > form.keys:
            apart = draw.op("Unsqueeze", [grown, draw.ints(2)])
            many = draw.op("Concat", [apart] * (form.heads // form.keys), axis=2)
            sizes = draw.op("Shape", [grown])
            length = draw.op("Slice", [sizes, draw.ints(2), draw.ints(3)])
            batch = draw.op("Slice", [sizes, draw.ints(0), draw.ints(1)])
            shape = draw.op("Concat", [batch, draw.ints(form.heads), length, draw.ints(form.head)], axis=0)
            grown = draw.op("Reshape", [many, shape])
        whole.append(grown)
    scale = draw.stored("scale", np.array(form.head**-0.5, form.dtype))
    scores = draw.op("MatMul", [whole[0], draw.op("Transpose", [whole[1]], perm=[0, 1, 3, 2])])
    scores = draw.op("Add", [draw.op("Mul", [scores, scale]), _additive(draw)])
    mixed = draw.op("MatMul", [draw.op("Softmax", [scores], axis=-1), whole[2]])
    joined = draw.op("Transpose", [mixed], perm=[0, 2, 1, 3])
    return draw.op("Reshape", [joined, draw.ints(0, 0, form.heads * form.head)])


ATTENTION = {"grouped": _grouped, "multihead": _multihead, "spelled": _spelled}


# --- the whole ------------------------------------------------------------------------------------------------------


def _neurons(draw: Drawing, x: str, at: str) -> str:
    form = draw.form
    if form.gate_up:
        parts = [f"{at}/gate", f"{at}/up"]
        both = draw.linear(x, f"{at}.gate_up", form.hidden, 2 * form.neurons)
        draw.op("Split", [both, draw.ints(form.neurons, form.neurons)], parts, axis=-1)
    else:
        parts = [draw.linear(x, f"{at}.{part}", form.hidden, form.neurons) for part in ("gate", "up")]
    opened = draw.op("Mul", [parts[0], draw.op("Sigmoid", [parts[0]])])
    return draw.linear(draw.op("Mul", [opened, parts[1]]), f"{at}.down", form.neurons, form.hidden)


def _embedded(draw: Drawing) -> str:
    form = draw.form
    if form.tied and form.bits:
        table = draw.random.standard_normal((form.vocabulary, form.hidden))
        packed, scales = packed_blocks(table, form.bits, form.block)
        weight = draw.stored("lm_head.weight_Q", packed)
        scaled = draw.stored("lm_head.scales", scales.astype(form.dtype))
        flat = draw.op("Reshape", [weight, draw.ints(form.vocabulary, -1)])
        return draw.own(
            "GatherBlockQuantized", [flat, "input_ids", scaled],
            bits=form.bits, block_size=form.block, gather_axis=0, quantize_axis=1,
        )  # fmt: skip
    return draw.op("Gather", [draw.floats("embed.weight", form.vocabulary, form.hidden, spread=1.0), "input_ids"])


def _scored(draw: Drawing, x: str) -> None:
    form = draw.form
    if form.tied and form.bits:
        inputs = [x, "lm_head.weight_Q", "lm_head.scales"]
        draw.own(
            "MatMulNBits", inputs, ["logits"],
            K=form.hidden, N=form.vocabulary, bits=form.bits, block_size=form.block, accuracy_level=1,
        )  # fmt: skip
    elif form.tied:
        draw.op("MatMul", [x, draw.op("Transpose", ["embed.weight"], perm=[1, 0])], ["logits"])
    else:
        draw.linear(x, "lm_head", form.hidden, form.vocabulary)
        draw.nodes[-1].output[0] = "logits"


def decoder(form: Form = Form(), seed: int = 0) -> ModelProto:
    """Return a model: token numbers, a mask, where its form asks for it places, and the cache in; logits and the cache out."""
    draw = Drawing(form, np.random.default_rng(seed))
    stream, added = _embedded(draw), ""
    for number in range(2 * form.layers + 1):
        layer, later = divmod(number, 2)
        x, stream = draw.normed(f"norm_{number}", stream, added)
        if layer == form.layers:
            break
        if later:
            added = _neurons(draw, x, f"mlp_{layer}")
        else:
            parts = _turned(draw, _projected(draw, x, f"attn_{layer}"))
            mixed = ATTENTION[form.attention](draw, parts, layer)
            added = draw.linear(mixed, f"attn_{layer}.o", form.heads * form.head, form.hidden)
    _scored(draw, x)
    graph = helper.make_graph(draw.nodes, "decoder", _inputs(draw), _outputs(form), draw.tensors)
    return _model(merged(graph) if form.merged else graph)


def _model(graph: GraphProto) -> ModelProto:
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _value(name: str, kind: int, *dims: int | str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(dims))


def _inputs(draw: Drawing) -> list[ValueInfoProto]:
    form, used = draw.form, {name for node in draw.nodes for name in node.input}
    plain = [_value("input_ids", INT64, "batch", "steps"), _value("attention_mask", INT64, "batch", "total")]
    if "position_ids" in used:
        plain.append(_value("position_ids", INT64, "batch", "steps"))
    return plain + _caches(form, 0, "past")


def _outputs(form: Form) -> list[ValueInfoProto]:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(form.dtype))
    return [_value("logits", kind, "batch", "steps", form.vocabulary), *_caches(form, 1, "total")]


def _caches(form: Form, side: int, length: str) -> list[ValueInfoProto]:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(form.dtype))
    keys = form.heads if form.attention == "multihead" else form.keys
    width = "width" if form.open_width else form.head
    names = [(layer, name) for layer in range(form.layers) for name in _cache_names(layer)[side]]
    lengths = {0: "sliding"} if form.sliding else {}
    return [_value(name, kind, "batch", keys, lengths.get(layer, length), width) for layer, name in names]


def merged(graph: GraphProto) -> GraphProto:
    """Return the graph behind a flag: with a past as it is, without one on keys and values alone, as optimum merges decoders."""
    bodies = []
    for without in (False, True):
        body = GraphProto()
        body.CopyFrom(graph)
        body.name = "without_past" if without else "with_past"
        del body.input[:], body.initializer[:]
        for node in body.node:
            node.name += f"_{body.name}"
            if without and node.op_type == "Concat" and node.input[0].startswith("past_key_values"):
                node.op_type = "Identity"
                del node.attribute[:], node.input[:1]
        renamed = {name: f"{name}_{body.name}" for node in body.node for name in node.output}
        for node in body.node:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]
        for value in body.output:
            value.name = renamed[value.name]
        bodies.append(body)
    node = helper.make_node(
        "If",
        ["use_cache_branch"],
        [value.name for value in graph.output],
        "/If",
        then_branch=bodies[0],
        else_branch=bodies[1],
    )
    flag = _value("use_cache_branch", TensorProto.BOOL, 1)
    return helper.make_graph([node], graph.name, [*graph.input, flag], list(graph.output), list(graph.initializer))


FORMS = {
    "separate": Form(),
    "packed": Form(packed=True, bias=True, open_width=True),
    "rotary nodes": Form(rotary="nodes"),
    "norms of queries and keys": Form(qk_norm=True, packed=True),
    "window and softcap": Form(window=4, softcap=20.0),
    "layer norms": Form(norm="layer", bias=True),
    "gates beside": Form(gate_up=True, tied=True),
    "half precision": Form(dtype=np.float16),
    "4 bits": Form(bits=4, packed=True, hidden=128, neurons=128),
    "4 bits, zero points": Form(bits=4, zero_points=True, hidden=128, neurons=128, block=16),
    "8 bits": Form(bits=8, hidden=128, neurons=128, zero_points=True),
    "4 bits, tied": Form(bits=4, tied=True, hidden=128, neurons=128),
    "multi-head": Form(attention="multihead", keys=4, rotary="nodes"),
    "spelled out": Form(attention="spelled", rotary="nodes"),
    "spelled out, no groups": Form(attention="spelled", keys=4, rotary="none", norm="layer"),
    "merged": Form(attention="spelled", rotary="nodes", merged=True),
}


def token_rows(form: Form, rows: int = 8, length: int = 10, seed: int = 0) -> np.ndarray:
    """Return int64[rows, length] of token numbers."""
    return np.random.default_rng(seed).integers(0, form.vocabulary, (rows, length))


def generated(run, model: ModelProto, prompt: np.ndarray, steps: int) -> np.ndarray:
    """Return float[batch, prompt + steps, vocabulary]: scores of a greedy loop step by step with the cache; ``run(feeds)`` gives outputs.

    Tokens are fed one at a time from the first on.
    """
    caches = {v.name: v for v in model.graph.input if v.name.startswith("past_key_values")}
    names = {v.name for v in model.graph.input}
    state = {}
    for name, value in caches.items():
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        state[name] = np.zeros((len(prompt), dims[1], 0, dims[3] or 16), kind)
    tokens, scores = prompt, []
    for step in range(prompt.shape[1] + steps):
        feeds = {"input_ids": tokens[:, step : step + 1], "attention_mask": np.ones((len(prompt), step + 1), np.int64)}
        if "position_ids" in names:
            feeds["position_ids"] = np.full((len(prompt), 1), step)
        if "use_cache_branch" in names:
            feeds["use_cache_branch"] = np.array([step > 0])
        found = run(feeds | state)
        scores.append(found["logits"])
        state = {name: found[name.replace("past_key_values", "present")] for name in state}
        if step + 1 >= prompt.shape[1]:
            tokens = np.concatenate([tokens, found["logits"][:, -1:].argmax(-1)], axis=1)
    return np.concatenate(scores, axis=1)
