"""onnx-graphsurgeon: subgraphs that are added to a model are built with it, and models are taken and given as its graphs.

What is added is spliced into the file's own proto. The rest of the file never goes through onnx-graphsurgeon, whose round trip
loses metadata, doc strings and quantisation annotations, and breaks IR 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.logger import G_LOGGER

from onnxprune.errors import ModelError
from onnxprune.model.graph import DEFAULT_DOMAINS, Graph, Insertions, Names, Node
from onnxprune.model.tensors import Folder, embed, is_plain, model_tensors, short_reason


def _quiet() -> AbstractContextManager[None]:
    """Keep onnx-graphsurgeon from printing to stdout what it warns of, or raises anyway."""
    return G_LOGGER.suppress(G_LOGGER.CRITICAL + 1)


# --- adding to a model ----------------------------------------------------------------------------------------------


class Splicer:
    """Puts subgraphs before or after nodes of ``graph``, all at once when it is carried out.

    What a subgraph reads and does not make, and its outputs, are values of the model. All else is renamed in place by
    ``names``, so that a tensor's name is read after the splice. Nodes stand in topological order and are of the model's
    opsets. Constants become stored tensors of the main graph, in their own element types, declared as inputs where the
    model declares its own.
    """

    def __init__(self, graph: Graph, names: Names):
        self.graph, self.names = graph, names
        self.inserted = Insertions(graph)
        self._places = {node: place for place, node in enumerate(graph.nodes)}
        self._declares = _declares_stored(graph.model)

    def before(self, node: Node, added: gs.Graph) -> None:
        """Put ``added`` before a node.

        Raises ValueError where the model makes what is read only later or not at all, or where its opset lacks an operator.
        """
        for proto in self._taken_in(added, node, self._places[node] - 1):
            self.inserted.before(node, proto)

    def after(self, node: Node, added: gs.Graph) -> None:
        """Put ``added`` after a node; else as ``before``."""
        for proto in self._taken_in(added, node, self._places[node]):
            self.inserted.after(node, proto)

    def carry_out(self) -> None:
        """Insert the nodes; the stored tensors are there already."""
        self.inserted.carry_out()

    def _taken_in(self, added: gs.Graph, node: Node, last: int) -> list[NodeProto]:
        """Return the nodes to insert; ``last``: place of the last node whose values may be read."""
        self._require_operators(added)
        tensors = _tensors(added)
        bodies = {id(value) for part in added.subgraphs(recursive=True) for value in part.inputs}
        read = [t for t in tensors if isinstance(t, gs.Variable) and not t.inputs and id(t) not in bodies]
        self._require_made(read, last if node.owner is self.graph.model.graph else len(self._places))
        bound = {id(value) for value in (*read, *added.outputs)}
        for item in (*(tensor for tensor in tensors if id(tensor) not in bound), *_all_nodes(added)):
            item.name = item.name and self.names.fresh(item.name)
        with _quiet():
            own = added.copy()
            for constant in [tensor for tensor in own.tensors().values() if isinstance(tensor, gs.Constant)]:
                self.store(_stored(constant))
                constant.to_variable()  # so that the exporter does not write it once more
                constant.dtype = constant.shape = None
            return list(gs.export_onnx(own, do_type_check=False, opset_imports=[]).graph.node)

    def _require_made(self, read: list[gs.Variable], last: int) -> None:
        for name in (value.name for value in read):
            maker = self.graph.producer.get(name)
            if maker is not None and self._places[maker] > last:
                raise ValueError(f"{name!r} is made by {maker.label!r}, which comes later")
            if name not in self.names:
                raise ValueError(f"{name!r} is read, and neither the model nor the subgraph makes it")

    def _require_operators(self, added: gs.Graph) -> None:
        """Raise ValueError for an operator that the model's opset does not have; name a domain that is new to the model."""
        for node in _all_nodes(added):
            domain = "" if (node.domain or "") in DEFAULT_DOMAINS else node.domain
            if domain not in self.graph.versions:
                version = next((o.version for o in added.import_domains or () if o.domain == domain), 1)
                self.graph.model.opset_import.add(domain=domain, version=version)
                self.graph.versions[domain] = version
            version = self.graph.versions[domain]
            if not domain and not onnx.defs.has(node.op, version, domain):
                raise ValueError(f"the model is of opset {version}, which has no {node.op}")

    def store(self, tensor: TensorProto) -> None:
        """Add a stored tensor, whose name is fresh, to the main graph."""
        self.graph.model.graph.initializer.append(tensor)
        if self._declares:
            declared = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            self.graph.model.graph.input.append(declared)


def _declares_stored(model: ModelProto) -> bool:
    """Whether stored tensors are declared as inputs: they must be up to IR 3, and later are where all of a file are."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return model.ir_version < 4 or (bool(stored) and stored <= {value.name for value in model.graph.input})


def _all_graphs(graph: gs.Graph) -> Iterator[gs.Graph]:
    yield graph
    yield from graph.subgraphs(recursive=True)


def _all_nodes(graph: gs.Graph) -> Iterator[gs.Node]:
    for part in _all_graphs(graph):
        yield from part.nodes


def _tensors(graph: gs.Graph) -> list[gs.Tensor]:
    """Return the tensors that the nodes of a graph and its bodies have, in their order; two may have one name."""
    found = (tensor for node in _all_nodes(graph) for tensor in (*node.inputs, *node.outputs) if tensor.name)
    inputs = (value for part in graph.subgraphs(recursive=True) for value in part.inputs)
    return list({id(tensor): tensor for tensor in (*found, *inputs)}.values())


def _stored(constant: gs.Constant) -> TensorProto:
    values = constant.values
    kind = getattr(constant, "export_dtype", values.dtype)
    wanted = helper.tensor_dtype_to_np_dtype(kind) if isinstance(kind, int) else np.dtype(kind)
    return numpy_helper.from_array(values.astype(wanted, copy=False), constant.name)


# --- models as graphs -----------------------------------------------------------------------------------------------

HELD = {"FLOAT", "INT", "STRING", "TENSOR", "GRAPH", "FLOATS", "INTS", "STRINGS"}
"""Types of attributes that a graph can hold; others would be left out of it without a word."""


def from_surgeon(graph: gs.Graph) -> ModelProto:
    """Return the model that a graph is, as ``gs.export_onnx`` writes it, and leave the graph as it is; raises ModelError.

    Its IR version is the graph's, or the lowest that its opsets need; at least 4, as a graph declares no stored tensors.
    """
    parts = [part for whole in (graph, *graph.functions) for part in _all_graphs(whole)]
    constants = [tensor for part in parts for tensor in part.tensors().values() if isinstance(tensor, gs.Constant)]
    try:
        with _quiet(), _writable(constants):
            own = _shadow(graph)
            own._functions = [_shadow(function) for function in graph.functions]
            proto = gs.export_onnx(own)
    except Exception as error:  # a graph may hold anything
        raise ModelError(f"the model given as gs.Graph cannot be written: {short_reason(error)}") from error
    lowest = helper.find_min_ir_version_for(list(proto.opset_import), ignore_unknown=True)
    proto.ir_version = max(4, vars(graph).get("ir_version") or lowest)
    return proto


def to_surgeon(proto: ModelProto, folder: Folder | None = None) -> gs.Graph:
    """Return a graph of a copy of the model, external data (sought in ``folder``) included, IR version at least 4.

    Raises ModelError where a graph cannot hold an attribute.
    """
    own = ModelProto()
    own.CopyFrom(proto)
    own.ir_version = max(4, proto.ir_version)
    for node in [*_protos(own.graph), *(node for function in own.functions for node in function.node)]:
        for attribute in node.attribute:
            if (kind := AttributeProto.AttributeType.Name(attribute.type)) not in HELD:
                raise ModelError(f"{node.op_type} {node.name!r}: gs.Graph holds no {attribute.name!r}, which is {kind}")
    for tensor in model_tensors(own):
        if tensor.data_location == TensorProto.EXTERNAL:
            embed(tensor, folder)
    try:
        with _quiet():
            return gs.import_onnx(own)
    except UnicodeDecodeError as error:  # strings of an attribute that hold bytes
        raise ModelError(f"gs.Graph holds no attribute that is no text: {error}") from error


def _protos(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from _protos(attribute.g)


@contextmanager
def _writable(constants: Sequence[gs.Constant]) -> Iterator[None]:
    """Have constants written as they are, which the exporter does not do with 4-bit types and strings, and restore them.

    It also renames the tensors of the file that a graph was read from.
    """
    values = [(constant, constant._values) for constant in constants]
    files = [content.tensor for _, content in values if not isinstance(content, np.ndarray)]
    names = [(tensor, tensor.name) for tensor in files if isinstance(tensor, TensorProto)]
    try:
        for constant, content in values:
            if isinstance(content, np.ndarray) and not is_plain(helper.np_dtype_to_tensor_dtype(content.dtype)):
                constant.values = LazyValues(_stored(constant))
        yield
    finally:
        for constant, content in values:
            constant.values = content
        for tensor, name in names:
            tensor.name = name


def _shadow(graph: gs.Graph) -> gs.Graph:
    """Return a graph of the same nodes whose list of opsets, to which the exporter adds, is its own."""
    result = object.__new__(type(graph))
    vars(result).update(vars(graph))
    if graph.import_domains is not None:
        result.import_domains = list(graph.import_domains)
    return result
