"""The cut: a smaller model of which no weight has changed its value.

Stored tensors are sliced; then the nodes are walked in order, each rule says what attributes and shape operands the smaller
node needs, and whatever the smaller graph would compute otherwise is put right. Everything else stays as it is in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import GraphProto, NodeProto, helper, numpy_helper

from onnxprune.coupling.beside import splice_in
from onnxprune.coupling.edits import Edits, KeptPositions
from onnxprune.coupling.groups import Analysis
from onnxprune.coupling.kept import Kept
from onnxprune.coupling.spec import RULES, Spec, View
from onnxprune.errors import SurgeryError
from onnxprune.model.facts import UNKNOWN, Fact, evaluate_node
from onnxprune.model.graph import Graph, Names, Node
from onnxprune.model.model import Model, described
from onnxprune.model.surgeon import Splicer
from onnxprune.model.tensors import FLOATS
from onnxprune.model.weights import stored_tensor

ROUNDING = frozenset({"Div", "Cast", "Floor", "Ceil", "Round"})  # operators whose results are rounded, of some types
DENOMINATOR = 1 << 12  # largest of a ratio of widths
Pair = list[np.ndarray | None]  # an operand's content under the two assignments of the free sizes


def cut(analysis: Analysis, kept: Sequence[np.ndarray]) -> Model:
    """Return the model without the units that are not in ``kept`` (bool[width] per group); its weights are views."""
    left = Kept.of(analysis, kept)
    result = _sliced(analysis.facts.model, left)
    small = Graph(result.structure)
    _slice_inner_tensors(left, small)
    _Walk(analysis, left, result, small).run()
    _declare_shapes(left, small)
    return result.derived(result.structure)


# --- stored tensors -------------------------------------------------------------------------------------------------


def _sliced(model: Model, kept: Kept) -> Model:
    """Return the model with views of its weights, whatever becomes of its nodes."""
    structure = model.draft()
    headers = structure.graph.initializer
    weights = model.weights.sliced({header.name: kept.masks(header.name) for header in headers})
    for header in headers:
        header.dims[:] = weights[header.name].shape
    return replace(model, structure=structure, weights=weights)


def _slice_inner_tensors(kept: Kept, small: Graph) -> None:
    """Slice what Constant nodes and bodies hold."""
    top = {tensor.name for tensor in small.model.graph.initializer}
    for name, tensor in small.tensors.items():
        masks = {} if name in top else kept.masks(name)
        if not masks:
            continue
        smaller = stored_tensor(tensor).sliced(masks)
        producer = small.producer.get(name)
        if producer is None or producer.proto.attribute[0].type == onnx.AttributeProto.TENSOR:
            fresh = described(tensor)
            fresh.dims[:] = smaller.shape
            smaller.fill(fresh)
            tensor.CopyFrom(fresh)
        else:  # a list of numbers
            _set_attribute(producer.proto, producer.proto.attribute[0].name, smaller.read().tolist())


# --- nodes ----------------------------------------------------------------------------------------------------------


@dataclass
class _Walk:
    """Walks the nodes of the smaller graph beside those of the original, following small tensors by value."""

    analysis: Analysis
    kept: Kept
    sliced: Model
    small: Graph

    def __post_init__(self) -> None:
        facts = self.analysis.facts
        self.old = (facts.first, facts.second)
        self.new: tuple[dict[str, Fact], ...] = ({}, {})
        self.copies: dict[tuple, str] = {}
        self.left: set[str] = set()
        self.names = Names(self.small.model.graph)
        self.splicer = Splicer(self.small, self.names)
        for name, tensor in self.small.tensors.items():
            for new, old in zip(self.new, self.old, strict=True):
                followed = old.get(name, UNKNOWN).array is not None
                array = self.sliced.array(tensor) if followed else None
                new[name] = Fact(tensor.data_type, tuple(tensor.dims), array)
        for name in self.small.inputs:
            for new, old in zip(self.new, self.old, strict=True):
                new[name] = old[name]
        for name in (name for node in self.small.nodes for body in node.bodies for name in body.inputs):
            for new, old in zip(self.new, self.old, strict=True):
                new[name] = self._shrunk(name, old.get(name, UNKNOWN))

    def run(self) -> None:
        specs = self.analysis.solution.links.specs
        for index, ((original, spec), node) in enumerate(zip(specs, list(self.small.nodes), strict=True)):
            if node.op == "Constant":
                continue
            edits = [self._edits(index, original, spec, second) for second in (False, True)]
            for name, value in edits[0].attributes.items():
                _set_attribute(node.proto, name, value)
            if not self._followed(original):
                positions = set(edits[0].operands) | set(range(len(original.inputs)))
            elif self._rounds_anew(original, node):
                edits = [Edits(operands={0: old[original.inputs[0]].array}) for old in self.old]  # type: ignore[dict-item]
                positions = {0}
            else:
                positions = set(edits[0].operands)
            self._evaluate(node, self._require(original, node, edits, sorted(positions)))
            if edits[0].results or edits[0].instead:
                splice_in(edits[0], node, self.analysis.facts.dtype(original.outputs[0]), self.splicer)
        self.splicer.carry_out()
        self._drop_unread()

    def _edits(self, index: int, original: Node, spec: Spec, second: bool) -> Edits:
        entry = RULES.get(original.op)
        if entry is None or entry.rewrite is None or not self.kept.reaches(index):
            return Edits()
        letters = {}
        for letter, size in spec.sizes.items():
            mask = self.kept.letter(index, letter)
            letters[letter] = size if mask is None else int(mask.sum())
        return entry.rewrite(
            View(original, self.analysis.facts, second), KeptPositions(self.kept.mask, letters.__getitem__)
        )

    def _followed(self, node: Node) -> bool:
        """Whether a node's results are all followed by value: then they are put right where they are used."""
        return all(self._content(name, old) is not None for name in node.outputs if name for old in self.old)

    def _content(self, name: str, old: dict[str, Fact]) -> np.ndarray | None:
        """Content that a value had, where it is followed: not along an axis of batch times heads of which heads go."""
        array = old.get(name, UNKNOWN).array
        sizes = [fact.shape for fact in (values.get(name, UNKNOWN) for values in self.old)]
        if array is None or sizes[0] == sizes[1]:
            return array
        return None if any(self.kept.mask(name, axis) is not None for axis in range(array.ndim)) else array

    def _rounds_anew(self, original: Node, node: Node) -> bool:
        """Whether a node that gave whole numbers exactly (a batch from batch times heads, divided by the heads) would round now."""
        if original.op not in ROUNDING or (original.op == "Cast" and original.attribute("to") in FLOATS):
            return False
        before, after = (new.get(node.inputs[0], UNKNOWN).array for new in self.new)
        one, two = (old.get(original.inputs[0], UNKNOWN).array for old in self.old)
        if before is None or after is None or one is None or two is None or not _in_proportion(before, after, one, two):
            return False
        return any(
            _is_whole(original, [old.get(name, UNKNOWN).array for name in original.inputs])
            and not _is_whole(original, [new.get(name, UNKNOWN).array for name in node.inputs])
            for old, new in zip(self.old, self.new, strict=True)
        )

    def _require(self, original: Node, node: Node, edits: list[Edits], positions: list[int]) -> dict[int, Pair]:
        """Make the operands at ``positions`` that are followed by value hold what the smaller node needs; return those changed."""
        changed: dict[int, Pair] = {}
        for position in positions:
            wanted = [self._wanted(original, position, e, old) for e, old in zip(edits, self.old, strict=True)]
            if wanted[0] is None or wanted[1] is None:
                continue
            name = node.input(position)
            have = [new.get(name, UNKNOWN).array if name else None for new in self.new]
            if not all(map(_equal, have, wanted)):
                self._patch(node, position, have, wanted)
                changed[position] = wanted
        return changed

    def _wanted(self, original: Node, position: int, edits: Edits, old: dict[str, Fact]) -> np.ndarray | None:
        """Content an operand must have: what the rewrite asks for, else the old content without the positions that go."""
        if position in edits.operands:
            return edits.operands[position]
        name = original.input(position)
        array = self._content(name, old) if name else None
        for axis in range(array.ndim if array is not None else 0):
            mask = self.kept.mask(name, axis)
            if mask is not None and array is not None:
                array = np.compress(mask, array, axis)
        return array

    def _patch(self, node: Node, position: int, have: Pair, wanted: Pair) -> None:
        one, two = wanted
        assert one is not None and two is not None
        if one.shape == two.shape and _equal(one, two):
            if not self._change_in_place(node, position, one):
                self._set_input(node.proto, position, self._new_tensor(node, position, one))
            return
        before, after = have
        if before is None or after is None or not _in_proportion(before, after, one, two):
            raise SurgeryError(f"node {node.label!r}: operand {position} cannot be brought from {before} to {one}")
        self._set_input(node.proto, position, self._rescaled(node, position, before, one, two))

    def _change_in_place(self, node: Node, position: int, content: np.ndarray) -> bool:
        """Overwrite the stored tensor behind an operand that nothing else uses."""
        name = node.input(position)
        tensor = self.small.tensors.get(name)
        alone = len(self.small.consumers.get(name, ())) == 1 and name not in self.small.outputs
        if tensor is None or not alone:
            return False
        producer = self.small.producer.get(name)
        if producer is not None and producer.proto.attribute[0].type != onnx.AttributeProto.TENSOR:
            return False
        label = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(content, label))
        return True

    def _new_tensor(self, node: Node, position: int, content: np.ndarray, what: str = "") -> str:
        """Return the name of a tensor with this content, one for all nodes of a graph that used the same before."""
        base = f"{node.proto.input[position] if node.input(position) else node.label}{what}_pruned"
        key = (id(node.owner), base, content.dtype.str, content.shape, content.tobytes())
        if key not in self.copies:
            tensor = numpy_helper.from_array(content, self.names.fresh(base))
            self.copies[key] = tensor.name
            if self.small.model.ir_version < 4:  # declared as an input, which a body's cannot be
                self.splicer.store(tensor)
            else:
                node.owner.initializer.append(tensor)
        return self.copies[key]

    def _drop_unread(self) -> None:
        """Take out the stored tensors whose last reader now reads another; those that nothing ever read stay."""
        owners = {id(node.owner): node.owner for node in self.small.nodes}.values()
        read = {name for owner in owners for node in owner.node for name in node.input}
        read.update(value.name for owner in owners for value in (*owner.input, *owner.output))
        graph, unread = self.small.model.graph, self.left - read
        for items in (graph.initializer, graph.value_info):
            for index in reversed([i for i, item in enumerate(items) if item.name in unread]):
                del items[index]

    def _rescaled(self, node: Node, position: int, have: np.ndarray, one: np.ndarray, two: np.ndarray) -> str:
        """Insert nodes that turn the computed sizes into the needed ones: constants where fixed, a ratio where they vary."""
        fixed = one == two
        up, down = (np.where(fixed, 1, part) for part in _fraction(one, have))
        source = node.proto.input[position]
        steps: list[tuple[str, list[Any]]] = []
        if (up != 1).any():
            steps.append(("Mul", [None, up]))
        if (down != 1).any():
            steps.append(("Div", [None, down]))
        if (fixed & (have != one)).any():
            steps.append(("Where", [~fixed, None, one]))
        value, nodes = gs.Variable(source), []
        for op, operands in steps:
            inputs = [
                value
                if content is None
                else gs.Variable(
                    self._new_tensor(
                        node, position, np.asarray(content, bool if i == 0 and op == "Where" else one.dtype), f"_{op}"
                    )
                )
                for i, content in enumerate(operands)
            ]
            value = gs.Variable(f"{source}_{op}")
            nodes.append(gs.Node(op, f"{node.label}/{op}_pruned", inputs=inputs, outputs=[value]))
        self.splicer.before(node, gs.Graph(nodes))
        return value.name

    def _set_input(self, proto: NodeProto, position: int, name: str) -> None:
        while len(proto.input) <= position:
            proto.input.append("")
        self.left.add(proto.input[position])
        proto.input[position] = name

    def _evaluate(self, node: Node, changed: dict[int, Pair]) -> None:
        """Follow the smaller node's small results by value, its shapes by what is kept."""
        for turn, (new, old) in enumerate(zip(self.new, self.old, strict=True)):
            inputs = [new.get(name, UNKNOWN) if name else None for name in node.inputs]
            for position, pair in changed.items():
                array = pair[turn]
                if position < len(inputs) and array is not None:
                    inputs[position] = Fact(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array)
            facts = [self._shrunk(name, old.get(name, UNKNOWN)) for name in node.outputs]
            if self._followed(node) and not node.bodies:
                arrays = evaluate_node(node, inputs, facts, self.small.versions)
            else:
                arrays = [None] * len(facts)
            for name, fact, array in zip(node.outputs, facts, arrays, strict=True):
                if name:
                    new[name] = Fact(fact.dtype, fact.shape, array)

    def _shrunk(self, name: str, fact: Fact) -> Fact:
        if fact.shape is None:
            return Fact(fact.dtype, None)
        return Fact(fact.dtype, KeptPositions(self.kept.mask, lambda _: 0).shape(name, fact.shape))


def _is_whole(node: Node, operands: Pair) -> bool:
    """Whether a node's result is a whole number before it is rounded (what is not known is taken to be)."""
    value = operands[0]
    if node.op != "Div":
        return value is None or value.dtype.kind != "f" or bool((value == np.round(value)).all())
    divisor = operands[1]
    if value is None or divisor is None or value.dtype.kind not in "iu" or (divisor == 0).any():
        return True
    return bool((value % divisor == 0).all())


def _in_proportion(before: np.ndarray, after: np.ndarray, one: np.ndarray, two: np.ndarray) -> bool:
    """Whether what is needed is the same multiple of what there is under both assignments; floats up to rounding."""
    if not before.shape == one.shape == after.shape == two.shape:
        return False  # how many numbers there are depends on the free sizes
    left, right = one * after, two * before
    if one.dtype.kind != "f":
        return bool((left == right).all())
    return bool(np.isclose(left, right, rtol=16 * np.finfo(one.dtype).eps, atol=0, equal_nan=True).all())


def _fraction(needed: np.ndarray, have: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return by what ``have`` is to be multiplied and divided: whole numbers, so that whole floats stay whole, if there are any."""
    if needed.dtype.kind == "f":
        ratios = np.divide(needed, have, out=np.ones(needed.shape), where=have != 0)
        parts = [Fraction(ratio).limit_denominator(DENOMINATOR) for ratio in ratios.reshape(-1).tolist()]
        near = [abs(part - ratio) <= abs(ratio) * 1e-6 for part, ratio in zip(parts, ratios.flat, strict=True)]
        up = [part.numerator if n else ratio for part, n, ratio in zip(parts, near, ratios.flat, strict=True)]
        down = [part.denominator if n else 1 for part, n in zip(parts, near, strict=True)]
        return tuple(np.array(side, needed.dtype).reshape(needed.shape) for side in (up, down))  # type: ignore[return-value]
    divisor = np.maximum(np.gcd(needed, have), 1)
    return needed // divisor, have // divisor


def _equal(one: np.ndarray | None, two: np.ndarray | None) -> bool:
    """Whether both are known and shapes and contents are equal, NaN being equal to NaN."""
    if one is None or two is None:
        return False
    return np.array_equal(one, two, equal_nan=one.dtype.kind in "fc" and two.dtype.kind in "fc")


def _set_attribute(proto: NodeProto, name: str, value: Any) -> None:
    """Set, replace or (value None) delete an attribute, leaving the others as they are."""
    for index, attribute in enumerate(proto.attribute):
        if attribute.name == name:
            if value is None:
                del proto.attribute[index]
            else:
                attribute.CopyFrom(helper.make_attribute(name, value))
            return
    if value is not None:
        proto.attribute.append(helper.make_attribute(name, value))


# --- declared shapes ------------------------------------------------------------------------------------------------


def _declare_shapes(kept: Kept, small: Graph) -> None:
    """Correct the sizes that the file declares for values and for stored tensors, those the walk has written anew among them."""

    def correct(graph: GraphProto, names: dict[str, str]) -> None:
        stored = {tensor.name: tensor.dims for tensor in graph.initializer}
        constants = (node for node in graph.node if node.op_type == "Constant")
        stored.update((node.output[0], a.t.dims) for node in constants for a in node.attribute if a.HasField("t"))
        for value in [*graph.input, *graph.value_info, *graph.output]:
            for dim, size in zip(value.type.tensor_type.shape.dim, stored.get(value.name, ()), strict=False):
                dim.dim_value = size
            for axis, dim in enumerate(value.type.tensor_type.shape.dim if value.name not in stored else ()):
                mask = kept.mask(names.get(value.name, value.name), axis)
                if mask is not None and dim.HasField("dim_value"):
                    dim.dim_value = dim.dim_value * int(mask.sum()) // len(mask)
                elif mask is not None:
                    dim.ClearField("value")

    correct(small.model.graph, {})
    for node in small.nodes:
        for body in node.bodies:
            inner = dict(zip((v.name for v in body.proto.input), body.inputs, strict=False))
            inner.update((p, n) for b in body.nodes for p, n in zip(b.proto.output, b.outputs, strict=True))
            correct(body.proto, inner)
