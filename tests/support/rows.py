"""What a row of an operator is (one per opset where its meaning changed): a small network and the groups to be found in it.

Most rows put the operator between a producer, whose output is ``p``, and a consumer, which reads ``h``; see FRAMES.
The golden lines are those of ``oracles.golden_lines``: groups with width, multiplicity, members and roles, then
(``!``) what is frozen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from onnx import ModelProto

from onnxprune.coupling.spec import LOSSY
from support.networks import DEFAULT_OPSET, network


@dataclass(frozen=True)
class Frame:
    """What stands before and after the operator under test."""

    inputs: str
    before: str
    after: str


FRAMES = {
    "conv": Frame(
        "float[2,3,4,4] x", "w1 = %6x3x1x1; b1 = %6; p = Conv(x, w1, b1)", "w2 = %5x{width}x1x1; y = Conv(h, w2)"
    ),
    "dense": Frame("float[2,3] x", "w1 = %3x6; b1 = %6; p = Gemm(x, w1, b1)", "w2 = %{width}x5; y = MatMul(h, w2)"),
    "tokens": Frame(
        "float[2,4,3] x", "w1 = %3x6; b1 = %6; m = MatMul(x, w1); p = Add(m, b1)", "w2 = %{width}x5; y = MatMul(h, w2)"
    ),
    "open": Frame("float[2,3,4,4] x", "", ""),
}


@dataclass(frozen=True)
class Row:
    """``text``: ONNX text between frame and frame; ``golden``: lines expected; the rest are options of ``network``."""

    name: str
    text: str
    golden: tuple[str, ...]
    frame: str = "conv"
    width: int = 6  # of the axis that the consumer reads
    inputs: str = ""  # instead of the frame's
    after: str | None = None  # instead of the frame's
    outputs: str = "float[] y"
    opset: int = DEFAULT_OPSET
    domains: dict[str, int] = field(default_factory=dict)
    functions: str = ""
    allow: tuple[str, ...] = ()  # lossy kinds that may be cut
    below: int = 2  # integer inputs are drawn under this
    runs: bool = True  # False: an operator the runtime does not have

    def model(self) -> ModelProto:
        frame = FRAMES[self.frame]
        after = frame.after if self.after is None else self.after
        body = "\n".join([frame.before, self.text, after.replace("{width}", str(self.width))])
        inputs = self.inputs or frame.inputs
        return network(body, inputs, self.outputs, opset=self.opset, domains=self.domains, functions=self.functions)


def row(name: str, text: str, *golden: str, **options) -> Row:
    return Row(name, text, golden, **options)


MICROSOFT = {"com.microsoft": 1}
STATISTICAL = ("statistics",)
STATISTICS = LOSSY["statistics"]
WINDOW = "a window slides over this axis"
PLAIN = "w1 6: w1.0 writes, b1.0 shifts, w2.1 reads"
DENSE = "w1 6: w1.1 writes, b1.0 shifts, w2.0 reads"


def stays(reason: str, *axes: str) -> list[str]:
    """Golden lines of axes (``w1.0 6/6``: parameter, axis, positions that stay) frozen for one reason."""
    return [f"! {axis}: {reason}" for axis in axes]
