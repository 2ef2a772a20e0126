"""Control flow: what goes into a body, comes out of it and goes round in it has the same axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnxprune.coupling.spec import Operand, Spec, Term, View, axes_of, rule
from onnxprune.model.facts import Shape

TURNS = "one position per turn of the loop"
CHANGES = "its size is not the same in every turn or branch"


def _shape(view: View, name: str) -> Shape:
    shape = view.fact_of(name).shape
    if shape is None:
        raise ValueError(f"the shape of {name!r} is not known")
    return shape


def _tie(view: View, spec: Spec, tag: str, names: Sequence[str]) -> list[Operand]:
    """Give the named values one set of letters and return their terms; axes that differ in size stay.

    Raises ValueError where they differ in rank.
    """
    shapes = {name: _shape(view, name) for name in names if name}
    if len({len(shape) for shape in shapes.values()}) > 1:
        raise ValueError(f"{' and '.join(shapes)} differ in rank")
    shared = axes_of(tag, next(iter(shapes.values())), spec.sizes)
    unlike = [axis for axis, sizes in enumerate(zip(*shapes.values(), strict=True)) if len(set(sizes)) > 1]
    own: dict[str, Operand] = {}
    for number, (name, shape) in enumerate(shapes.items()):
        letters = {axis: f"{tag}{axis}_{number}" for axis in unlike}
        spec.sizes.update((letter, shape[axis]) for axis, letter in letters.items())
        spec.bar(letters.values(), CHANGES)
        own[name] = tuple(Term((letters[axis],)) if axis in letters else term for axis, term in enumerate(shared))
    for axis in unlike:
        del spec.sizes[shared[axis].letters[0]]
    spec.extra.extend(own.items())
    return [own.get(name) for name in names]


def _stacked(view: View, spec: Spec, name: str, inner: Operand, axis: int, tag: str) -> Operand:
    """Terms of a value outside whose slices along ``axis`` are the values ``inner`` inside."""
    assert inner is not None
    shape = _shape(view, name)
    axis %= len(shape)
    spec.sizes[tag] = shape[axis]
    spec.bar([tag], TURNS)
    return (*inner[:axis], Term((tag,)), *inner[axis:])


@rule("If", family="control")
def if_(view: View) -> Spec:
    """Where the condition is known, what the other branch would give is of no interest."""
    spec = Spec([None], [])
    condition = view.facts.array(view.node.inputs[0])
    taken = [body for body in view.node.bodies if condition is None or body.runs_if(bool(condition.all()))]
    for number, name in enumerate(view.node.outputs):
        spec.outputs.append(_tie(view, spec, f"o{number}_", [name, *(body.outputs[number] for body in taken)])[0])
    return spec


@rule("Loop", family="control")
def loop(view: View) -> Spec:
    """Inputs: count, condition, states; the body takes turn, condition, states and gives condition, states, slices."""
    (body,) = view.node.bodies
    states = len(body.inputs) - 2
    spec = Spec([None, None], [])
    for i in range(states):
        ring = [view.node.inputs[2 + i], body.inputs[2 + i], body.outputs[1 + i], view.node.outputs[i]]
        start, _, _, end = _tie(view, spec, f"v{i}_", ring)
        spec.inputs.append(start)
        spec.outputs.append(end)
    _collect(view, spec, body.outputs[1 + states :], states, [])
    return spec


@rule("Scan", family="control")
def scan(view: View) -> Spec:
    """Inputs: states, then tensors that the body takes a slice of each turn."""
    if view.node.version < 9:
        raise ValueError("its batched form")
    (body,) = view.node.bodies
    slices = int(view.attribute("num_scan_inputs"))
    states = len(view.node.inputs) - slices
    spec = Spec([], [])
    for i in range(states):
        ring = [view.node.inputs[i], body.inputs[i], body.outputs[i], view.node.outputs[i]]
        start, _, _, end = _tie(view, spec, f"v{i}_", ring)
        spec.inputs.append(start)
        spec.outputs.append(end)
    axes = view.attribute("scan_input_axes", [0] * slices)
    for i, axis in enumerate(axes, states):
        (inner,) = _tie(view, spec, f"x{i}_", [body.inputs[i]])
        spec.inputs.append(_stacked(view, spec, view.node.inputs[i], inner, axis, f"n{i}"))
    _collect(view, spec, body.outputs[states:], states, view.attribute("scan_output_axes", []))
    return spec


def _collect(view: View, spec: Spec, ends: Iterable[str], first: int, axes: list[int]) -> None:
    """Tie what the body gives each turn to the outputs that collect it, from output ``first`` on."""
    for number, end in enumerate(ends):
        name = view.node.outputs[first + number]
        (inner,) = _tie(view, spec, f"z{number}_", [end])
        axis = axes[number] if axes else 0
        spec.outputs.append(_stacked(view, spec, name, inner, axis, f"t{number}") if name else None)
