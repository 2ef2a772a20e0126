"""What a pattern is, which other tools break on: a small network, the groups to be found, the share of MACs that may go.

Groups are written as the oracles print them without their members: ``name width`` or ``name widthxmultiplicity``, with a
``~`` where some node takes statistics over the units. Tensors without a name are numbered t1, t2, ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from onnx import ModelProto, helper

from support.networks import DEFAULT_OPSET, network

IMAGE = "float[1,3,4,4] x"
TOKENS = "float[2,4,6] x"


@dataclass(frozen=True)
class Pattern:
    """``groups``: lines expected, joined by ``; ``; ``share``: prunable share of the MACs; the rest builds the model."""

    name: str
    text: str
    groups: str
    share: float
    inputs: str = IMAGE
    outputs: str = "float[] y"
    opset: int = DEFAULT_OPSET
    domains: dict[str, int] = field(default_factory=dict)
    functions: str = ""
    ir_version: int = 10
    allow: tuple[str, ...] = ()  # kinds of lossy operators that may be cut
    below: int = 2  # integer inputs are drawn under this
    runs: bool = True  # False: with an operator the runtime does not have
    change: Callable[[ModelProto], ModelProto] = lambda model: model

    def model(self) -> ModelProto:
        options = {"opset": self.opset, "domains": self.domains, "functions": self.functions}
        return self.change(network(self.text, self.inputs, self.outputs, ir_version=self.ir_version, **options))


def attention(projections: str, heads: int = 2, width: int = 3, extra: str = "", scores: str = "") -> str:
    """Attention over q, k, v of ``heads`` heads of ``width`` each, all named in ``projections``; the result is y."""
    shape = f"@[0, 0, {heads}, {width}]"
    split = " ".join(f"{n}r = Reshape({n}, {shape});" for n in "qkv")
    return (
        f"{projections} {split} qt = Transpose<perm=[0,2,1,3]>(qr); kt = Transpose<perm=[0,2,3,1]>(kr);"
        f"vt = Transpose<perm=[0,2,1,3]>(vr); {extra} z = MatMul(qt, kt); zs = Mul(z, @0.5); {scores or 'zb = Identity(zs)'};"
        "a = Softmax(zb); m = MatMul(a, vt); mt = Transpose<perm=[0,2,1,3]>(m); c = Reshape(mt, @[0, 0, -1]);"
        f"wo = %{heads * width}x6; y = MatMul(c, wo)"
    )


SEPARATE = "wq = %6x6; wk = %6x6; wv = %6x6; q = MatMul(x, wq); k = MatMul(x, wk); v = MatMul(x, wv);"
PACKED = "w = %6x18; p = MatMul(x, w);"
DENSE = """
<domain: "local", opset_import: ["" : 21]>
dense (a, w, b) => (c) { m = MatMul(a, w)
s = Add(m, b)
c = Softplus(s) }
"""


def as_inputs(model: ModelProto) -> ModelProto:
    """List the initializers as inputs, as files of IR 3 have to."""
    infos = [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer]
    model.graph.input.extend(infos)
    return model


def as_constants(model: ModelProto) -> ModelProto:
    """Move the initializers into Constant nodes."""
    for tensor in reversed(model.graph.initializer):
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    model.graph.ClearField("initializer")
    return model
