"""LSTM, GRU and RNN written out step by step, so that their gradient follows from the rules of simpler operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from onnxprune.grad.emitter import Emitter, Unsupported, Value
from onnxprune.grad.view import ForwardNode

LONGEST = 512
"""Steps: a longer sequence would make a graph of tens of thousands of nodes."""

DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
PLAIN = {name.lower(): name for name in ("Sigmoid", "Tanh", "Relu", "Softsign", "Softplus")}


class Cell(NamedTuple):
    """One direction: recurrent weight [h, gates * h], its bias [gates * h], peepholes (input, output, forget)."""

    recurrent: Value
    bias: Value | None
    peepholes: list[Value]
    activations: list[str]
    width: int
    linear_before_reset: bool


State = tuple[Value, ...]
CellStep = Callable[[Emitter, Cell, Value, State], State]


def _lstm(emit: Emitter, cell: Cell, x: Value, state: State) -> State:
    """Gates in the order input, output, forget, cell (ONNX operator LSTM)."""
    h, c = state
    f, g, last = cell.activations
    gates = x + h @ cell.recurrent
    gates = gates if cell.bias is None else gates + cell.bias
    i, o, forget, new = emit.split(gates, 1, [cell.width] * 4)
    if cell.peepholes:
        i, forget = i + cell.peepholes[0] * c, forget + cell.peepholes[2] * c
    c = emit(f, forget) * c + emit(f, i) * emit(g, new)
    o = o + cell.peepholes[1] * c if cell.peepholes else o
    return emit(f, o) * emit(last, c), c


def _gru(emit: Emitter, cell: Cell, x: Value, state: State) -> State:
    """Gates in the order update, reset, hidden (ONNX operator GRU)."""
    (h,), (f, g), n = state, cell.activations, cell.width
    xs = emit.split(x, 1, [2 * n, n])
    weights = emit.split(cell.recurrent, 1, [2 * n, n])
    biases = [0.0, 0.0] if cell.bias is None else emit.split(cell.bias, 0, [2 * n, n])
    update, reset = emit.split(emit(f, xs[0] + h @ weights[0] + biases[0]), 1, [n, n])
    linear = cell.linear_before_reset
    inner = (h if linear else reset * h) @ weights[1] + biases[1]
    inner = reset * inner if linear else inner
    return ((1.0 - update) * emit(g, xs[1] + inner) + update * h,)


def _rnn(emit: Emitter, cell: Cell, x: Value, state: State) -> State:
    total = x + state[0] @ cell.recurrent
    return (emit(cell.activations[0], total if cell.bias is None else total + cell.bias),)


STEPS: dict[str, CellStep] = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}


def unroll(emit: Emitter, node: ForwardNode) -> list[Value]:
    """Return the outputs Y: [t, d, n, h], Y_h: [d, n, h] and for LSTM Y_c: [d, n, h]; raises Unsupported."""
    length = _length(node)
    directions = {"bidirectional": (False, True), "reverse": (True,)}.get(node.attribute("direction"), (False,))
    results = [_direction(emit, node, d, backward, length) for d, backward in enumerate(directions)]
    sequences = [emit("Concat", *(emit("Unsqueeze", h, [0]) for h in steps), axis=0) for steps, _ in results]
    y = emit("Concat", *(emit("Unsqueeze", s, [1]) for s in sequences), axis=1)
    lasts = zip(*(state for _, state in results), strict=True)
    return [y, *(emit("Concat", *(emit("Unsqueeze", s, [0]) for s in states), axis=0) for states in lasts)]


def _length(node: ForwardNode) -> int:
    length = node.x.sizes[0]
    node.refuse_unless(length is not None, "the sequence length depends on the inputs; give fixed input shapes")
    assert length is not None
    node.refuse_unless(length <= LONGEST, f"{length} steps are more than the {LONGEST} that are unrolled")
    node.refuse_unless(not node.attribute("layout", 0), "layout=1 is not supported")
    node.refuse_unless(not node.attribute("input_forget", 0), "input_forget is not supported")
    node.refuse_unless(node.attribute("clip") is None, "clip is not supported")
    lengths = node.input(4)
    full = lengths is None or (lengths.array is not None and (lengths.array == length).all())
    node.refuse_unless(full, "sequence_lens differ per sample")
    return length


def _direction(emit: Emitter, node: ForwardNode, d: int, backward: bool, length: int) -> tuple[list[Value], State]:
    """Run one direction; return the hidden state after each step in the order of the input, and the last state."""
    op = node.node.op
    count, width = GATES[op], node.attribute("hidden_size") or node.inputs[2].shape[2]

    def part(index: int) -> Value | None:
        given = node.input(index)
        return None if given is None else emit("Squeeze", emit.slice(given, 0, d, d + 1), [0])

    weight, recurrent, bias = part(1), part(2), part(3)
    assert weight is not None and recurrent is not None
    input_bias, hidden_bias = emit.split(bias, 0, [count * width] * 2) if bias is not None else (None, None)
    xs = node.x @ emit.swap(weight)
    xs = xs if input_bias is None else xs + input_bias
    steps = emit.split(xs, 0, [1] * length) if length > 1 else [xs]
    peepholes = part(7) if op == "LSTM" else None
    cell = Cell(
        emit.swap(recurrent),
        hidden_bias,
        emit.split(peepholes, 0, [width] * 3) if peepholes is not None else [],
        _activations(node, d),
        width,
        bool(node.attribute("linear_before_reset", 0)),
    )
    zeros = emit.filled([node.x.dim(1), width], 0.0, node.x)
    state = tuple(part(index) or zeros for index in ((5, 6) if op == "LSTM" else (5,)))
    hidden = []
    for x in reversed(steps) if backward else steps:
        state = STEPS[op](emit, cell, emit("Squeeze", x, [0]), state)
        hidden.append(state[0])
    return (hidden[::-1] if backward else hidden), state


def _activations(node: ForwardNode, d: int) -> list[str]:
    defaults = DEFAULTS[node.node.op]
    given = [a.decode() if isinstance(a, bytes) else a for a in node.attribute("activations", [])]
    names = given[d * len(defaults) : (d + 1) * len(defaults)] or list(defaults)
    for name in names:
        if name.lower() not in PLAIN:
            raise Unsupported(f"activation {name} is not supported")
    return [PLAIN[name.lower()] for name in names]


UNROLLED = dict.fromkeys(STEPS, unroll)
"""Operator -> how it is written out."""
