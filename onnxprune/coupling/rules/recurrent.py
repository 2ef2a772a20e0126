"""Recurrent operators: a hidden unit with all its gates, in both directions, is one thing to remove."""

from __future__ import annotations

from onnxprune.coupling.edits import Edits, KeptPositions
from onnxprune.coupling.spec import Operand, Spec, Term, View, parse, rule

STEPS = "each step goes on from the one before"
QUANTISED = "the states are quantised over the range of all units while the model runs"
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, "com.microsoft::DynamicQuantizeLSTM": 4}


def _hidden_size(view: View, cut: KeptPositions) -> Edits:
    return Edits({"hidden_size": cut.letter("h")})


def _recurrent(view: View, weights: tuple[str, str], tail: dict[int, str]) -> Spec:
    """Letters: s steps, b batch, d directions, i features, g gates, h hidden units written, k the same units read back.

    ``weights``: signatures of the two weights; ``tail``: those of the inputs that one of the operators alone has.
    """
    late = bool(view.attribute("layout", 0))
    state = "b d h" if late else "d b h"
    texts = {0: "b s i" if late else "s b i", 1: weights[0], 2: weights[1], 3: "d (e h)", 4: "b", 5: state, **tail}
    outputs = ["b s d h" if late else "s d b h", state, state]
    hidden = next(i for i, name in enumerate(view.node.outputs) if name)
    units = view.out_shape(hidden)[-1]
    gates = GATES[view.node.op]
    sizes = {"g": gates, "e": 2 * gates, "p": 3, "h": units, "k": units}
    count = len(view.node.inputs)
    spec = parse(
        f"{','.join(texts.get(i, '') for i in range(count))} -> {','.join(outputs[: len(view.node.outputs)])}",
        view.shapes(),
        view.out_shapes(),
        sizes,
    )
    spec.extra.append((view.node.outputs[hidden], _read_back(spec.outputs[hidden])))
    spec.bar("gep", "the gates of one unit go together")
    spec.bar("d", "both directions share their tensors")
    spec.bar("s", STEPS)
    spec.roles = {1: "writes", 2: "writes", 3: "shifts", 7: "writes"}
    spec.cost, spec.further = tuple("sbdghi"), [tuple("sbdghk")]
    return spec


def _read_back(operand: Operand) -> Operand:
    assert operand is not None
    return (*operand[:-1], Term(("k",)))


@rule("LSTM", "GRU", "RNN", family="contraction", rewrite=_hidden_size)
def recurrent(view: View) -> Spec:
    state = "b d h" if view.attribute("layout", 0) else "d b h"
    return _recurrent(view, ("d (g h) i", "d (g h) k"), {6: state, 7: "d (p h)"})


@rule("com.microsoft::DynamicQuantizeLSTM", family="contraction", rewrite=_hidden_size)
def dynamic_quantize_lstm(view: View) -> Spec:
    """The weights are stored transposed; scales and zero points are per direction or per gate row.

    Without some units the range of the states is another one, and so is every step of their quantisation.
    """
    wide = "d (g h)" if view.rank(8) == 2 else "d"
    spec = _recurrent(view, ("d i (g h)", "d k (g h)"), {6: "d b h", 7: "d (p h)", **dict.fromkeys(range(8, 12), wide)})
    spec.silent = {2: 11, 0: None}
    return spec.bar("hk", QUANTISED)


@rule("CausalConvWithState", "com.microsoft::CausalConvWithState", family="per-channel")
def causal_convolution(view: View) -> Spec:
    """A convolution of each channel on its own over the past, whose last steps are handed on as state."""
    if view.attribute("channels_last", 0):
        raise ValueError("channels come last")
    signature = "b c l, c one k, c, b c j -> b c l, b c j"
    spec = parse(signature, view.shapes(), view.out_shapes())
    spec.roles = {2: "shifts", 3: "shifts"}
    spec.cost = tuple("bclk")
    return spec.bar([letter for letter in "lkj" if letter in spec.sizes], "a window slides over this axis")
