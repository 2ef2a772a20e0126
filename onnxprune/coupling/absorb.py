"""Scales that a cut has put behind statistics, taken in by stored tensors further on: gains, epsilons, weights.

``f x + e = f (x + e / f)``, ``sqrt(f x) = sqrt(f) sqrt(x)`` and so forth until a stored tensor takes the factor in. What is left is
the norm as it was written, which runtimes fuse into one operator; a scale inside of it would keep them from that.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from onnx import helper, numpy_helper

from onnxprune.coupling.beside import TELLTALE
from onnxprune.model.graph import Graph, Insertions, Names, Node, forget_values, names_read
from onnxprune.model.model import Model
from onnxprune.model.tensors import FLOATS

SCALE = f"/Mul_{TELLTALE}"
"""What the name of a scale ends with, a number aside."""
GAINS = {"RMSNormalization": 1, "SimplifiedLayerNormalization": 1, "com.microsoft::SkipSimplifiedLayerNormalization": 2}
"""Norm without a bias that is added behind -> the number of its gain."""
WEIGHTS = {"MatMul": (0, 1), "Gemm": (1,), "Conv": (1,), "ConvTranspose": (1,)}
"""Operator -> its operands that may be weights; its result is proportional to each, but for a bias that the factor leaves alone."""
PASSING = frozenset({"Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Neg", "Abs", "Relu"})
"""Operators whose result has the factor that their first operand has, where that is positive."""


class Factor(NamedTuple):
    """What a value lacks, and the element type that it has."""

    by: float
    dtype: int

    def to(self, power: float) -> Factor:
        return self._replace(by=self.by**power)


class Taken(NamedTuple):
    """An operand of a node that is to be multiplied."""

    node: Node
    position: int
    factor: Factor


def absorbed(model: Model) -> Model:
    """Return the model without the scales that stored tensors can take in; the model itself where there are none."""
    if not any(SCALE in node.name for node in model.structure.graph.node):
        return model
    return _Absorber(model).run()


class _Absorber:
    def __init__(self, model: Model):
        self.model, self.graph = model, Graph(model.draft())
        self.names, self.inserted = Names(self.graph.model.graph), Insertions(self.graph)
        self.top = set(self.graph.top)
        self.arrays: dict[str, np.ndarray] = {}  # tensor -> its new content
        self.reads: dict[tuple[Node, int], str] = {}  # operand -> a tensor of its own
        self.gone: list[Node] = []
        self.constants = set(self.graph.tensors)
        for node in self.graph.top:
            if node.inputs and not node.bodies and all(name in self.constants for name in node.inputs if name):
                self.constants.update(name for name in node.outputs if name)

    def run(self) -> Model:
        for node in self.graph.top:
            if SCALE in node.proto.name and node.op == "Mul":
                self._try(node)
        if not self.gone:
            return self.model
        self.inserted.carry_out()
        gone, graph = {id(node.proto) for node in self.gone}, self.graph.model.graph
        for index in reversed([i for i, proto in enumerate(graph.node) if id(proto) in gone]):
            del graph.node[index]
        self._drop_unread()
        fresh = self.reads.values()
        graph.initializer.extend(numpy_helper.from_array(self.arrays[name], name) for name in fresh)
        rest = {name: array for name, array in self.arrays.items() if name not in fresh}
        return self.model.derived(self.graph.model).replaced(rest)

    def _try(self, scale: Node) -> None:
        source, number = scale.inputs
        maker, by = self.graph.producer.get(source), self._scalar(number)
        if by is None or maker is None or len(self.graph.consumers[source]) != 1:
            return
        if by <= 0:
            self._take_nothing_away(scale, maker)
            return
        factor = Factor(by, self.graph.tensors[number].data_type)
        taken = self._into(maker, GAINS[maker.op], factor) if maker.op in GAINS else None
        taken = self._through(scale.outputs[0], factor) if taken is None else taken
        if taken is None:
            return
        for item in taken:
            self._multiply(item)
        maker.proto.output[maker.outputs.index(source)] = scale.proto.output[0]
        self.gone.append(scale)

    def _take_nothing_away(self, zero: Node, maker: Node) -> None:
        """Let what reads a value less its mean, which is zero, read the value."""
        users = self.graph.consumers.get(zero.outputs[0], [])
        if maker.op != "ReduceMean" or not all(self._subtracts(node, place) for node, place in users):
            return
        for difference, _ in users:
            for node, place in self.graph.consumers[difference.outputs[0]]:
                node.proto.input[place] = difference.proto.input[0]
            self.gone.append(difference)
        self.gone += [zero, maker]

    def _subtracts(self, node: Node, position: int) -> bool:
        own = self.graph.consumers.get(node.outputs[0], [])
        plain = (
            node in self.top and node.outputs[0] not in self.graph.outputs and all(user in self.top for user, _ in own)
        )
        return plain and node.op == "Sub" and position == 1

    def _scalar(self, name: str) -> float | None:
        tensor = self.graph.tensors.get(name)
        if tensor is None or np.prod(tensor.dims, dtype=np.int64) != 1:
            return None
        return float(self.model.array(tensor).reshape(-1)[0])

    # --- where a factor goes ----------------------------------------------------------------------------------------

    def _through(self, value: str, factor: Factor) -> list[Taken] | None:
        """Return what takes a factor in that a value no longer has; None where something that reads it does not."""
        users = self.graph.consumers.get(value, [])
        if not users or value in self.graph.outputs or not all(node in self.top for node, _ in users):
            return None
        found: list[Taken] = []
        for node, position in users:
            own = self._at(node, position, factor)
            if own is None:
                return None
            found += own
        return found

    def _at(self, node: Node, position: int, factor: Factor) -> list[Taken] | None:
        if node.op in WEIGHTS:
            weights = [i for i in WEIGHTS[node.op] if i != position]
            return self._into(node, weights[0], factor) if weights and position < 2 else None
        if node.op == "Mul":
            taken = self._into(node, 1 - position, factor)
            return self._through(node.outputs[0], factor) if taken is None else taken
        if node.op == "Add":
            taken = self._into(node, 1 - position, factor.to(-1))
            rest = self._through(node.outputs[0], factor)
            return None if taken is None or rest is None else [*taken, *rest]
        passed = self._passed(node, position, factor)
        return None if passed is None else self._through(node.outputs[0], passed)

    def _passed(self, node: Node, position: int, factor: Factor) -> Factor | None:
        """Return the factor that an operator of one number at a time hands on."""
        if node.op == "Div":
            return factor.to(-1 if position else 1)
        if position:
            return None
        if node.op == "Cast" and node.attribute("to") in FLOATS:
            return factor._replace(dtype=node.attribute("to"))
        power = self._scalar(node.input(1)) if node.op == "Pow" else {"Sqrt": 0.5, "Reciprocal": -1.0}.get(node.op)
        return factor if node.op in PASSING else None if power is None else factor.to(power)

    def _into(self, node: Node, position: int, factor: Factor) -> list[Taken] | None:
        """Return an operand as what takes a factor in: a constant, of which a matrix that others read as well is none."""
        name = node.input(position)
        tensor = self.graph.tensors.get(name)
        if name not in self.constants or (tensor is not None and tensor.data_type not in FLOATS):
            return None
        matrix = tensor is not None and np.prod(tensor.dims, dtype=np.int64) != max(tensor.dims, default=1)
        return None if matrix and not self._alone(name) else [Taken(node, position, factor)]

    def _alone(self, name: str) -> bool:
        return len(self.graph.consumers[name]) == 1 and name not in self.graph.outputs

    # --- taking it in -----------------------------------------------------------------------------------------------

    def _multiply(self, item: Taken) -> None:
        node, position, factor = item
        name = self.reads.get((node, position), node.inputs[position])
        if name not in self.arrays and name not in self.graph.tensors:
            self._multiply_computed(item)
            return
        before = self.arrays[name] if name in self.arrays else self.model.array(self.graph.tensors[name])
        if name not in self.arrays and not self._alone(name):
            name = self.reads[node, position] = self.names.fresh(f"{node.proto.input[position]}_{TELLTALE}")
            node.proto.input[position] = name
        self.arrays[name] = (before.astype(np.float64) * factor.by).astype(before.dtype)

    def _multiply_computed(self, item: Taken) -> None:
        """Multiply what is computed from stored tensors alone: runtimes do that once, when they load the model."""
        node, position, factor = item
        source = node.proto.input[position]
        number, result = self.names.fresh(f"{source}_by_{TELLTALE}"), self.names.fresh(f"{source}_{TELLTALE}")
        kind = helper.tensor_dtype_to_np_dtype(factor.dtype)
        self.graph.model.graph.initializer.append(numpy_helper.from_array(np.asarray(factor.by, kind), number))
        label = self.names.fresh(f"{source}/By_{TELLTALE}")
        self.inserted.before(node, helper.make_node("Mul", [source, number], [result], label))
        node.proto.input[position] = result

    def _drop_unread(self) -> None:
        """Take out the stored tensors whose last reader now reads another."""
        left = {name for node in self.gone for name in node.inputs} | {
            node.inputs[position] for node, position in self.reads
        }
        graph = self.graph.model.graph
        unread = left - {name for node in graph.node for name in names_read(node)} - set(self.graph.outputs)
        forget_values(graph, unread)
