"""One small mixture of experts in the forms that files have it in, all of which compute the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, checker, helper, numpy_helper

from onnxprune.model.graph import names_read

EXPERTS, PICKED, HIDDEN, INNER = 6, 2, 8, 10
Tensors = dict[str, Any]
node = helper.make_node


def weights(seed: int = 0) -> Tensors:
    """Return wi [5, d], router wr [d, e] and br [e], experts w1 [e, d, f], b1 [e, 1, f], w2 [e, f, d], b2 [e, 1, d], wo [d, 3]."""
    draw = np.random.default_rng(seed)
    shapes = {
        "wr": (HIDDEN, EXPERTS), "br": (EXPERTS,), "w1": (EXPERTS, HIDDEN, INNER), "b1": (EXPERTS, 1, INNER),
        "w2": (EXPERTS, INNER, HIDDEN), "b2": (EXPERTS, 1, HIDDEN), "wo": (HIDDEN, 3), "wi": (5, HIDDEN),
    }  # fmt: skip
    return {
        n: (draw.standard_normal(s) / np.sqrt(s[-1]) * (2 if n == "wr" else 1)).astype(np.float32)
        for n, s in shapes.items()
    }


def built(nodes: Sequence[NodeProto], stored: Tensors, outputs: Sequence[str] = ("y",)) -> ModelProto:
    """Return the checked model; of ``stored`` what is read."""
    read = {name for n in nodes for name in names_read(n)}
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items() if name in read]
    values = [helper.make_tensor_value_info(name, 1, ["t", 3] if name == "y" else []) for name in outputs]
    inputs = [helper.make_tensor_value_info("x", 1, ["t", 5])]
    graph = helper.make_graph(list(nodes), "mixture", inputs, values, tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    checker.check_model(model)
    return model


def _around(middle: Sequence[NodeProto], last: str = "moe") -> list[NodeProto]:
    """Put a layer, the router, and behind the mixture a residual sum and a head around nodes."""
    before = [
        node("MatMul", ["x", "wi"], ["h0"]), node("Relu", ["h0"], ["h"]),
        node("MatMul", ["h", "wr"], ["l0"]), node("Add", ["l0", "br"], ["logits"]),
    ]  # fmt: skip
    return [*before, *middle, node("Add", ["h", last], ["res"]), node("MatMul", ["res", "wo"], ["y"])]


NUMBERS = {
    "k": np.array([PICKED]), "m1": np.array([-1]), "u0": np.array([0]), "u1": np.array([1]), "u2": np.array([2]),
    "depth": np.array(EXPERTS), "values": np.array([0, 1]), "range": np.arange(EXPERTS),
} | {f"n{e}": np.array(e) for e in range(EXPERTS)} | {f"at{e}": np.array([e]) for e in range(EXPERTS + 1)}  # fmt: skip

ROUTED = [
    node("Softmax", ["logits"], ["p"], axis=-1), node("TopK", ["p", "k"], ["v", "i"], axis=-1),
    node("ReduceSum", ["v", "m1"], ["vs"], keepdims=1), node("Div", ["v", "vs"], ["w"]),
]  # fmt: skip
PLACED = [
    *ROUTED, node("Shape", ["p"], ["ps"]),
    node("ConstantOfShape", ["ps"], ["z"], value=helper.make_tensor("v", 1, [1], [0.0])),
    node("ScatterElements", ["z", "i", "w"], ["c"], axis=-1),
]  # fmt: skip


def fused(**attributes: Any) -> ModelProto:
    """com.microsoft::MoE."""
    w = weights()
    stored = w | {
        "w1": w["w1"].transpose(0, 2, 1).copy(), "w2": w["w2"].transpose(0, 2, 1).copy(), "b1": w["b1"][:, 0], "b2": w["b2"][:, 0],
    }  # fmt: skip
    given = {"k": PICKED, "activation_type": "relu", "normalize_routing_weights": 1} | attributes
    moe = node("MoE", ["h", "logits", "w1", "b1", "w2", "b2"], ["moe"], domain="com.microsoft", **given)
    return built(_around([moe]), stored)


def quantised() -> ModelProto:
    """com.microsoft::QMoE with 8-bit weights, which gives about the same."""
    w = weights()
    stored = dict(w, b1=w["b1"][:, 0], b2=w["b2"][:, 0])
    for name in ("w1", "w2"):
        whole = w[name].transpose(0, 2, 1)
        scale = np.abs(whole).max(axis=2) / 127
        stored[name] = (np.round(whole / scale[:, :, None]) + 128).astype(np.uint8)
        stored[f"s{name}"] = scale.astype(np.float32)
    inputs = ["h", "logits", "w1", "sw1", "b1", "w2", "sw2", "b2"]
    given = {"k": PICKED, "activation_type": "relu", "normalize_routing_weights": 1, "expert_weight_bits": 8}
    return built(_around([node("QMoE", inputs, ["moe"], domain="com.microsoft", **given)]), stored)


def stacked() -> ModelProto:
    """Every expert for every token, in one product, weighted by what was scattered."""
    middle = [
        *PLACED, node("Unsqueeze", ["h", "u0"], ["h3"]), node("MatMul", ["h3", "w1"], ["a0"]), node("Add", ["a0", "b1"], ["a1"]),
        node("Relu", ["a1"], ["a"]), node("MatMul", ["a", "w2"], ["o0"]), node("Add", ["o0", "b2"], ["o"]),
        node("Transpose", ["c"], ["ct"], perm=[1, 0]), node("Unsqueeze", ["ct", "u2"], ["cu"]), node("Mul", ["o", "cu"], ["oc"]),
        node("ReduceSum", ["oc", "u0"], ["moe"], keepdims=0),
    ]  # fmt: skip
    return built(_around(middle), weights() | NUMBERS)


def gathered() -> ModelProto:
    """The weights of the experts that were picked, for every token, as transformers exports them (batched_mm)."""
    names = [node("Gather", [name, "i"], [f"g{name}"], axis=0) for name in ("w1", "b1", "w2", "b2")]
    middle = [
        *ROUTED, *names, node("Unsqueeze", ["h", "u1"], ["hu"]), node("Unsqueeze", ["hu", "u1"], ["h4"]),
        node("MatMul", ["h4", "gw1"], ["a0"]), node("Add", ["a0", "gb1"], ["a1"]), node("Relu", ["a1"], ["a"]),
        node("MatMul", ["a", "gw2"], ["o0"]), node("Add", ["o0", "gb2"], ["o"]), node("Squeeze", ["o", "u2"], ["os"]),
        node("Unsqueeze", ["w", "u2"], ["wu"]), node("Mul", ["os", "wu"], ["ow"]), node("ReduceSum", ["ow", "u1"], ["moe"], keepdims=0),
    ]  # fmt: skip
    return built(_around(middle), weights() | NUMBERS)


def _expert(e: int, source: str, stored: Tensors) -> list[NodeProto]:
    stored.update({f"{name}_{e}": stored[name][e] for name in ("w1", "b1", "w2", "b2")})
    return [
        node("MatMul", [source, f"w1_{e}"], [f"a0_{e}"]), node("Add", [f"a0_{e}", f"b1_{e}"], [f"a1_{e}"]),
        node("Relu", [f"a1_{e}"], [f"a_{e}"]), node("MatMul", [f"a_{e}", f"w2_{e}"], [f"o0_{e}"]),
        node("Add", [f"o0_{e}", f"b2_{e}"], [f"o_{e}"]),
    ]  # fmt: skip


def _column(e: int, how: str) -> list[NodeProto]:
    """Return what takes the weights of one expert from all."""
    if how == "gather":
        return [node("Gather", ["c", f"n{e}"], [f"c_{e}"], axis=1), node("Unsqueeze", [f"c_{e}", "u1"], [f"ce_{e}"])]
    return [node("Slice", ["c", f"at{e}", f"at{e + 1}", "u1"], [f"ce_{e}"])] if how == "slice" else []


def one_by_one(how: str = "gather") -> ModelProto:
    """Every expert for every token, one after the other, times its weights, summed up."""
    stored, last = weights() | NUMBERS, ""
    middle = list(PLACED)
    if how == "split":
        middle.append(node("Split", ["c"], [f"ce_{e}" for e in range(EXPERTS)], axis=1))
    for e in range(EXPERTS):
        middle += [*_expert(e, "h", stored), *_column(e, how), node("Mul", [f"o_{e}", f"ce_{e}"], [f"y_{e}"])]
        if last:
            middle.append(node("Add", [last, f"y_{e}"], [f"acc_{e}"]))
        last = f"acc_{e}" if last else f"y_{e}"
    return built(_around(middle, last), stored)


def joined() -> ModelProto:
    """Every expert for every token, joined along an axis of experts and weighted there."""
    stored, middle = weights() | NUMBERS, list(PLACED)
    for e in range(EXPERTS):
        middle += [*_expert(e, "h", stored), node("Unsqueeze", [f"o_{e}", "u1"], [f"y_{e}"])]
    middle += [
        node("Concat", [f"y_{e}" for e in range(EXPERTS)], ["ys"], axis=1), node("Unsqueeze", ["c", "u2"], ["cu"]),
        node("Mul", ["ys", "cu"], ["yc"]), node("ReduceSum", ["yc", "u1"], ["moe"], keepdims=0),
    ]  # fmt: skip
    return built(_around(middle), stored)


def _of_tokens(e: int, how: str) -> list[NodeProto]:
    if how == "equal":
        return [node("Equal", ["i", f"n{e}"], [f"m0_{e}"]), node("Transpose", [f"m0_{e}"], [f"m_{e}"], perm=[1, 0])]
    return [node("Gather", ["mask", f"n{e}"], [f"m_{e}"], axis=0)]


def by_tokens(how: str = "one-hot") -> ModelProto:
    """The tokens that were sent to an expert, gathered, computed and added back, one expert after the other."""
    stored, last = weights() | NUMBERS, "acc"
    hot = {
        "one-hot": [node("OneHot", ["i", "depth", "values"], ["oh"], axis=-1)],
        "range": [
            node("Unsqueeze", ["i", "u2"], ["iu"]), node("Equal", ["iu", "range"], ["flags"]), node("Cast", ["flags"], ["oh"], to=7),
        ],
    }.get(how, [])  # fmt: skip
    middle = [*ROUTED, *hot, *([node("Transpose", ["oh"], ["mask"], perm=[2, 1, 0])] if hot else [])]
    zero = helper.make_tensor("v", 1, [1], [0.0])
    middle += [node("Shape", ["h"], ["hs"]), node("ConstantOfShape", ["hs"], ["acc"], value=zero)]
    for e in range(EXPERTS):
        middle += [
            *_of_tokens(e, how), node("NonZero", [f"m_{e}"], [f"nz_{e}"]), node("Split", [f"nz_{e}"], [f"j0_{e}", f"t0_{e}"], axis=0),
            node("Squeeze", [f"t0_{e}", "u0"], [f"t_{e}"]), node("Squeeze", [f"j0_{e}", "u0"], [f"j_{e}"]),
            node("Gather", ["h", f"t_{e}"], [f"x_{e}"], axis=0), *_expert(e, f"x_{e}", stored),
            node("Unsqueeze", [f"t_{e}", "u1"], [f"tu_{e}"]), node("Unsqueeze", [f"j_{e}", "u1"], [f"ju_{e}"]),
            node("Concat", [f"tu_{e}", f"ju_{e}"], [f"tj_{e}"], axis=1), node("GatherND", ["w", f"tj_{e}"], [f"g_{e}"]),
            node("Unsqueeze", [f"g_{e}", "u1"], [f"gu_{e}"]), node("Mul", [f"o_{e}", f"gu_{e}"], [f"y_{e}"]),
            node("ScatterND", [last, f"tu_{e}", f"y_{e}"], [f"acc_{e}"], reduction="add"),
        ]  # fmt: skip
        last = f"acc_{e}"
    return built(_around(middle, last), stored)


FORMS: dict[str, Callable[[], ModelProto]] = {
    "fused": fused,
    "stacked": stacked,
    "gathered": gathered,
    "gather": one_by_one,
    "slice": lambda: one_by_one("slice"),
    "split": lambda: one_by_one("split"),
    "joined": joined,
    "one-hot": by_tokens,
    "range": lambda: by_tokens("range"),
    "equal": lambda: by_tokens("equal"),
}
"""Name of a form -> the model in it."""


def _taken(e: int) -> list[NodeProto]:
    """Return an expert whose weights are taken from stacked ones by a number that is stored."""
    taken = [node("Gather", [name, f"n{e}"], [f"{name}_{e}"], axis=0) for name in ("w1", "b1", "w2", "b2")]
    return [*taken, *_expert(e, "h", {name: np.zeros(EXPERTS) for name in ("w1", "b1", "w2", "b2")})]


def taken_one_by_one() -> ModelProto:
    """As ``one_by_one``, the weights stacked."""
    middle, last = list(PLACED), ""
    for e in range(EXPERTS):
        middle += [*_taken(e), *_column(e, "gather"), node("Mul", [f"o_{e}", f"ce_{e}"], [f"y_{e}"])]
        if last:
            middle.append(node("Add", [last, f"y_{e}"], [f"acc_{e}"]))
        last = f"acc_{e}" if last else f"y_{e}"
    return built(_around(middle, last), weights() | NUMBERS)


FORMS["taken"] = taken_one_by_one


def chained(form: str) -> ModelProto:
    """Two mixtures of one form, one behind the other, that share what is stored of numbers, as simplifiers leave it."""
    first = FORMS[form]()
    nodes, stored = list[NodeProto](), dict[str, Any](NUMBERS)
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in first.graph.initializer}
    for layer in range(2):
        stored |= {f"{n}/{layer}": -a if layer and n[1] == "r" else a for n, a in held.items() if n not in NUMBERS}
        for old in first.graph.node:
            if old.output[0] == "y" or (layer and old.output[0] in ("h0", "h")):
                continue
            fresh = type(old)()
            fresh.CopyFrom(old)
            names = {"x": "x"} | {name: name for name in NUMBERS} | ({"h": "res/0"} if layer else {})
            fresh.input[:] = [names.get(name, f"{name}/{layer}") for name in old.input]
            fresh.output[:] = [f"{name}/{layer}" for name in old.output]
            nodes.append(fresh)
    return built([*nodes, node("MatMul", ["res/1", "wo/1"], ["y"])], stored)


STACKED = ("a0", "a1", "a", "o0", "o")


def _of(form: str, *names: str) -> list[NodeProto]:
    return [n for n in FORMS[form]().graph.node if n.output[0] in names]


def switched() -> ModelProto:
    """One expert for each token, by its number, weighted by its probability (switch transformers)."""
    middle = [
        node("Softmax", ["logits"], ["p"], axis=-1), node("ArgMax", ["p"], ["i"], axis=1, keepdims=0),
        node("ReduceMax", ["p"], ["pm"], axes=[1], keepdims=1), node("OneHot", ["i", "depth", "flags"], ["oh"], axis=-1),
        node("Mul", ["oh", "pm"], ["c"]), *_of("stacked", "h3", *STACKED, "ct", "cu", "oc", "moe"),
    ]  # fmt: skip
    return built(_around(middle), weights() | NUMBERS | {"flags": np.array([0, 1], np.float32)})


def tiled() -> ModelProto:
    """Tokens repeated for each expert, and shapes that name the number of experts."""
    middle = [
        *PLACED, node("Tile", ["h", "times"], ["hr"]), node("Reshape", ["hr", "shape"], ["h3"]), *_of("stacked", *STACKED, "ct"),
        node("Reshape", ["ct", "shape2"], ["cu"]), *_of("stacked", "oc", "moe"),
    ]  # fmt: skip
    sizes = {"times": [EXPERTS, 1], "shape": [EXPERTS, -1, HIDDEN], "shape2": [EXPERTS, -1, 1]}
    return built(_around(middle), weights() | NUMBERS | {name: np.array(size) for name, size in sizes.items()})


def summed() -> ModelProto:
    """One Einsum over experts and neurons."""
    middle = [
        *PLACED, node("Einsum", ["h", "w1"], ["a0"], equation="td,edf->tef"), node("Squeeze", ["b1", "u1"], ["b1s"]),
        node("Add", ["a0", "b1s"], ["a1"]), node("Relu", ["a1"], ["a"]), node("Einsum", ["a", "w2", "c"], ["s"], equation="tef,efd,te->td"),
        node("Squeeze", ["b2", "u1"], ["b2s"]), node("MatMul", ["c", "b2s"], ["b"]), node("Add", ["s", "b"], ["moe"]),
    ]  # fmt: skip
    return built(_around(middle), weights() | NUMBERS)


def picked_first() -> ModelProto:
    """Scores are picked, and made weights afterwards."""
    middle = [node("TopK", ["logits", "k"], ["v", "i"], axis=-1), node("Softmax", ["v"], ["w"], axis=-1)]
    names = ("gw1", "gb1", "gw2", "gb2", "hu", "h4", *STACKED, "os", "wu", "ow", "moe")
    return built(_around([*middle, *_of("gathered", *names)]), weights() | NUMBERS)


def between(*nodes: NodeProto) -> ModelProto:
    """``stacked`` with nodes between ``logits`` and what is made of ``scores``."""
    rest = list(stacked().graph.node)
    at = next(place for place, n in enumerate(rest) if n.op_type == "Softmax")
    for n in rest[at:]:
        n.input[:] = ["scores" if name == "logits" else name for name in n.input]
    numbers = {
        "warm": np.array(0.7, np.float32),
        "turned": np.array(-0.7, np.float32),
        "gain": np.ones(EXPERTS, np.float32),
    }
    return built([*rest[:at], *nodes, *rest[at:]], weights() | NUMBERS | numbers)


def spelled_out() -> ModelProto:
    """A softmax of standard operators."""
    rest = list(gathered().graph.node)
    at = next(place for place, n in enumerate(rest) if n.op_type == "Softmax")
    rest[at : at + 1] = [
        node("ReduceMax", ["logits"], ["mx"], axes=[1], keepdims=1), node("Sub", ["logits", "mx"], ["sh"]), node("Exp", ["sh"], ["ex"]),
        node("ReduceSum", ["ex", "u1"], ["sm"], keepdims=1), node("Div", ["ex", "sm"], ["p"]),
    ]  # fmt: skip
    return built(rest, weights() | NUMBERS)
