"""ONNX Runtime's own quantiser, kept to a private folder and to itself: nothing is printed, no file is left, no session but ours runs rows."""

from __future__ import annotations

import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import onnx
from onnx import ModelProto

from onnxprune.errors import ModelError
from onnxprune.model.graph import Names, names_read
from onnxprune.model.model import Model, embedded
from onnxprune.model.read import PROTOBUF_LIMIT
from onnxprune.model.runtime import session

METHODS = ("minmax", "percentile", "entropy")
"""How ONNX Runtime finds the range of a value: what was seen, all but one in 100,000, or the least divergence of histograms."""
PRODUCTS = ["Conv", "ConvTranspose", "Gather", "Gemm", "MatMul", "Relu"]
"""Operators with weights that have an 8-bit form, and the one that is taken in by those before it."""
PRODUCT_OF_GEMM = "_MatMul"
"""What the quantiser puts behind the name of a Gemm for the MatMul that it makes of it where values are quantised as they come."""
MARKS = frozenset({"onnx.infer", "onnx.quant.pre_process"})
"""Keys of metadata by which the quantiser's parts tell each other what was done."""


class Rounding8(NamedTuple):
    """How numbers become 8 bits: ``signed``: values (of dynamic quantisation: weights) as int8, else uint8; weights of the static form are int8.

    ``symmetric``: the zero of values is that of their integers. ``products``: of the static form, nodes with weights alone are quantised.
    """

    per_channel: bool = False
    signed: bool = False
    symmetric: bool = False
    products: bool = False


class Quantiser:
    """A float model in a folder of its own; every method raises ModelError with the first line of ONNX Runtime's reason.

    ``kept``: first outputs of nodes that stay float.
    """

    def __init__(self, model: Model, threads: int = 1, kept: Collection[str] = ()):
        self.model, self._threads, self._kept = model, threads, kept

    def __enter__(self) -> Self:
        require_room(self.model)
        self._folder = tempfile.TemporaryDirectory(prefix="onnxprune.")
        self._place = Path(self._folder.name)
        self._file = self._place / "float.onnx"
        message = prepared_message(self.model)
        kept = [node.name for node in message.graph.node if node.output[0] in self._kept]
        self._left = [name + end for name in kept for end in ("", PRODUCT_OF_GEMM)]
        onnx.save(message, self._file)
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def ranges(self, method: str, feeds: Iterable[Mapping[str, np.ndarray]], *, products: bool = False) -> Any:
        """Return the range of every float value that may be quantised, by one of ``METHODS``; ``feeds``: one run of the model each.

        Values of one run at a time are in memory.
        """
        with quietly(self.model.name):
            from onnxruntime.quantization import CalibrationMethod, create_calibrator

            method_of = dict(zip(METHODS, ("MinMax", "Percentile", "Entropy"), strict=True))
            augmented = self._place / f"{method}.onnx"
            calibrator = create_calibrator(
                self._file, static_operators(products), str(augmented), CalibrationMethod[method_of[method]]
            )
            calibrator.infer_session = _Rows(session(augmented, threads=self._threads, optimise=False))
            for feed in feeds:
                calibrator.collect_data(_Once(feed))
            return calibrator.compute_data()

    def static(self, how: Rounding8, ranges: Any) -> Model:
        """Return the model with weights as int8 and values quantised by their ranges, in QDQ form: what ``quantize_static`` gives."""
        with quietly(self.model.name):
            from onnxruntime.quantization import QDQQuantizer, QuantType

            values = QuantType.QInt8 if how.signed else QuantType.QUInt8
            extra = {
                "ActivationSymmetric": how.symmetric,
                "MatMulConstBOnly": how.products,
                "QDQKeepRemovableActivations": has_bodies(self.model),  # a body may read what would be removed
            }
            quantizer = QDQQuantizer(
                *(
                    onnx.load(self._file),
                    how.per_channel,
                    False,
                    QuantType.QInt8,
                    values,
                    ranges,
                    [],
                    self._left,
                    static_operators(how.products),
                ),
                extra,
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
            return own_model(quantizer.model.model, self.model)

    def dynamic(self, how: Rounding8) -> Model:
        """Return the model with weights as 8 bits and values quantised as they come: what ``quantize_dynamic`` gives."""
        with quietly(self.model.name):
            from onnxruntime.quantization import QuantType, quantize_dynamic

            place = self._place / "dynamic.onnx"
            weights = QuantType.QInt8 if how.signed else QuantType.QUInt8
            known = [op for op in eight_bit_operators(dynamic=True) if op not in _standard_only(self.model)]
            quantize_dynamic(
                self._file, place, per_channel=how.per_channel, weight_type=weights, op_types_to_quantize=known,
                nodes_to_exclude=self._left,
            )  # fmt: skip
            return own_model(onnx.load(place), self.model)


def fused(model: Model) -> Model:
    """Return the model as ONNX Runtime's preparation for its quantiser leaves it: norms folded into convolutions, constants computed once."""
    with quietly(model.name), tempfile.TemporaryDirectory(prefix="onnxprune.") as folder:
        from onnxruntime.quantization.shape_inference import quant_pre_process

        place = [Path(folder) / name for name in ("before.onnx", "after.onnx")]
        onnx.save(embedded(model), place[0])
        quant_pre_process(str(place[0]), str(place[1]), skip_symbolic_shape=True)
        return own_model(onnx.load(place[1]), model)


def eight_bit_operators(*, dynamic: bool = False) -> list[str]:
    """Return the operators that the quantiser has an 8-bit form of, sorted; dynamic: Gemm as the MatMul and Add that it makes of it."""
    from onnxruntime.quantization.registry import IntegerOpsRegistry, QDQRegistry, QLinearOpsRegistry

    return sorted({*IntegerOpsRegistry, "Gemm"}) if dynamic else sorted({*QLinearOpsRegistry, *QDQRegistry})


def static_operators(products: bool) -> list[str]:
    """Return the operators that a static recipe quantises."""
    return list(PRODUCTS) if products else eight_bit_operators()


def require_room(model: Model) -> None:
    """Refuse a model that the quantiser, which reads and writes single messages, cannot hold; raises ModelError."""
    size = sum(tensor.nbytes for tensor in model.weights.values())
    if size >= PROTOBUF_LIMIT // 2:  # what it writes between holds weights twice
        raise ModelError(
            f"{model.name}: weights of {size / 1e9:.1f} GB are more than ONNX Runtime's quantiser takes "
            f"({PROTOBUF_LIMIT // 2 / 1e9:.1f} GB); prune it further, or leave quantize out"
        )


def prepared_message(model: Model) -> ModelProto:
    """Return the whole model as the quantiser takes it without a word: nodes named, and said to be prepared."""
    result = embedded(model)
    names = Names(result.graph)
    for node in result.graph.node:
        node.name = node.name or names.fresh(f"{node.op_type}_{node.output[0]}")
    result.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    return result


def own_model(proto: ModelProto, before: Model) -> Model:
    """Return what came of a model as a model, with what says where it comes from as it was, and only the domains that it uses."""
    was = before.structure
    for name in ("producer_name", "producer_version", "doc_string", "model_version", "domain"):
        setattr(proto, name, getattr(was, name))
    del proto.metadata_props[:]
    proto.metadata_props.extend(entry for entry in was.metadata_props if entry.key not in MARKS)
    known = {value.name for value in was.graph.value_info}
    values = [value for value in proto.graph.value_info if value.name in known]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(values)
    used = {"", "ai.onnx", *(entry.domain for entry in was.opset_import), *_domains(proto.graph.node)}
    kept = [entry for entry in proto.opset_import if entry.domain in used]
    _sort(proto.graph)
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    about = {"digest": before.digest, "warnings": before.warnings, "data": before.data}
    return Model.of(proto, before.path, **about)


def has_bodies(model: Model) -> bool:
    """Whether a node has a graph of its own, such as the branches of an If."""
    return any(attribute.HasField("g") for node in model.structure.graph.node for attribute in node.attribute)


def _standard_only(model: Model) -> set[str]:
    """Return operators whose 8-bit form is of one in Microsoft's domain of the same name, where a model has the standard one."""
    return {"Attention"} & {node.op_type for node in model.structure.graph.node if not node.domain}


def _sort(graph: onnx.GraphProto) -> None:
    """Bring nodes into an order in which each comes after those that it, or a body of it, reads: the quantiser's does not see bodies."""
    made = {name for node in graph.node for name in node.output if name}
    waiting, done, order = list(graph.node), set[str](), list[onnx.NodeProto]()
    while waiting:
        later = []
        for node in waiting:
            if (names_read(node) & made) <= done:
                order.append(node)
                done.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            return  # a cycle, which the checker tells of
        waiting = later
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in order]
    del graph.node[:]
    graph.node.extend(copies)


def _domains(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield node.domain
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _domains(body.node)


class _Once:
    """A calibration data reader of a single run."""

    def __init__(self, feed: Mapping[str, np.ndarray]):
        self._left: list[dict[str, np.ndarray]] = [dict(feed)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self._left.pop() if self._left else None


class _Named(NamedTuple):
    name: str


class _Rows:
    """One of our sessions as a calibrator asks for it."""

    def __init__(self, own: Any):
        self._own = own

    def get_inputs(self) -> list[_Named]:
        return [_Named(name) for name in self._own.inputs]

    def get_outputs(self) -> list[_Named]:
        return [_Named(name) for name in self._own.outputs]

    def run(self, _: None, feed: Mapping[str, np.ndarray]) -> list[Any]:
        return list(self._own.run(feed).values())


@contextmanager
def quietly(name: str) -> Iterator[None]:
    """Keep what the quantiser prints and logs away, and turn whatever it raises into a ModelError."""
    root, level, silent = logging.root, logging.root.manager.disable, logging.NullHandler()
    root.addHandler(silent)  # without one, a warning would set up the program's log
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    except ModelError:
        raise
    except MemoryError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"ONNX Runtime's quantiser cannot process {name}: {type(error).__name__}: {reason}") from error
    finally:
        logging.disable(level)
        root.removeHandler(silent)
        sys.stdout.flush()
