"""The one place where ONNX Runtime sessions are made and run; ONNX Runtime is imported on first use only."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from onnxprune.errors import ModelError, UsageError
from onnxprune.model.batched import BatchedValues
from onnxprune.model.graph import give_out
from onnxprune.model.model import Model, embed_header
from onnxprune.model.scratch import let_pages_go
from onnxprune.model.segmented import Fed, Segmented, Stage, memory_allowed, runs_in_segments
from onnxprune.model.weights import Tensor
from onnxprune.registry import near_names

CPU = ("CPUExecutionProvider",)
CONFIG = {
    "session.intra_op.allow_spinning": "0",
    "session.inter_op.allow_spinning": "0",
}
"""Idle threads sleep, so that two sessions side by side do not take the cores from each other."""

LARGE = 1 << 16  # bytes: smaller tensors stay inside the model
SAME_AS_REQUESTED = 1  # how a pool of memory grows
_T = onnx.TensorProto
MAPPED = {
    *(_T.FLOAT, _T.FLOAT16, _T.DOUBLE, _T.BOOL),
    *(_T.INT8, _T.INT16, _T.INT32, _T.INT64, _T.UINT8, _T.UINT16, _T.UINT32, _T.UINT64),
}
"""Element types that numpy and ONNX Runtime store alike."""
NAMED = {_T.BFLOAT16, _T.FLOAT8E4M3FN, _T.FLOAT8E4M3FNUZ, _T.FLOAT8E5M2, _T.FLOAT8E5M2FNUZ}
"""Element types of whole bytes that plain numpy does not have: handed over as bytes and a name."""

Arrays = Mapping[str, np.ndarray]
"""What is fed, by name."""
Results = Mapping[str, Any]
"""What comes out, by name: arrays, and lists of them where an output is a sequence."""
Tell = Callable[[int, int], None]
"""Is told how much is done, and of how much."""
ModelLike = str | os.PathLike[str] | bytes | onnx.ModelProto | Model


class Session:
    """A loaded model: ``run`` maps input name -> array to output name -> array."""

    def __init__(self, inference: Any, name: str, weights: Sequence[Any] = (), made: Opened | None = None):
        self._inference, self.name, self._made = inference, name, made
        self._weights = weights  # ONNX Runtime reads their memory without owning it
        self.inputs: tuple[str, ...] = tuple(value.name for value in inference.get_inputs())
        self.outputs: tuple[str, ...] = tuple(value.name for value in inference.get_outputs())
        self.providers: tuple[str, ...] = tuple(inference.get_providers())

    def leaving(self, names: Collection[str]) -> Session:
        """Return the session, which no longer gives outputs of these names unless it is asked for them."""
        self.outputs = tuple(name for name in self.outputs if name not in names)
        return self

    def __reduce__(self) -> Any:
        """Send what it was opened by: another process opens a session of its own."""
        assert self._made is not None
        return _opened_again, (self._made, self.outputs)

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Return the named outputs (None: all); raise ModelError with the first line of ONNX Runtime's reason."""
        names = self.outputs if outputs is None else tuple(outputs)
        if not names:
            return {}  # to ONNX Runtime no name means all
        try:
            return dict(zip(names, self._inference.run(list(names), dict(feeds)), strict=True))
        except Exception as error:
            raise ModelError(f"{self.name} cannot be run: {_reason(error)}") from error

    def run_into(self, feeds: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> None:
        """Write outputs into arrays of their types and shapes, without a copy; all arrays are contiguous, of types that numpy has."""
        binding = self._inference.io_binding()
        for name, array in feeds.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        self._inference.run_with_iobinding(binding)

    @property
    def by_segments(self) -> bool:
        """Whether the model is loaded segment by segment: then ``stages`` loads each of them once, ``run`` every time."""
        return isinstance(self._inference, Segmented)

    def stages(self, batches: Iterable[Arrays], wanted: Sequence[tuple[str, ...]]) -> Iterator[Stage]:
        """Yield, until all is there, names of ``wanted`` outputs (or inputs) with what they are, batch after batch.

        A loaded model gives everything at once; one by segments what each of them completes, for all batches before the next is loaded.
        ``batches`` may be read again and again. Raises ModelError with the first line of ONNX Runtime's reason.
        """
        if isinstance(self._inference, Segmented):
            for names, values in self._inference.stages(batches, wanted):
                yield names, self._told(values)
            return
        read = list(dict.fromkeys(name for names in wanted for name in names if name not in self.inputs))
        yield list(wanted), ({**feeds, **self.run(feeds, read)} for feeds in batches)

    def runs(self, batches: Iterable[Fed], tell: Tell | None = None) -> Iterator[tuple[Fed, dict[str, Any]]]:
        """Yield batch after batch, and all outputs for it; each segment of a model is loaded once.

        ``batches`` may be read again and again. ``tell``: how many outputs of a model by segments are there, and how many there will be.
        Raises ModelError as ``run`` does.
        """
        if not isinstance(self._inference, Segmented):
            yield from ((feeds, self.run(feeds)) for feeds in batches)
            return
        held = BatchedValues(self._inference.held)
        for due, shown in self.stages(batches, [(name,) for name in self.outputs]):
            for values in shown:
                for (name,) in due:
                    held.add(name, values[name])
            if tell is not None:
                tell(len(held), len(self.outputs))
        for number, feeds in enumerate(batches):
            yield feeds, {name: held[name][number] for name in self.outputs}

    def _told(self, values: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        try:
            yield from values
        except Exception as error:
            raise ModelError(f"{self.name} cannot be run: {_reason(error)}") from error


class Opened(NamedTuple):
    """What ``session`` was given, and the memory that was allowed."""

    model: ModelLike
    threads: int
    optimise: bool
    providers: tuple[str, ...]
    memory: int | None


def _opened_again(made: Opened, outputs: tuple[str, ...]) -> Session:
    memory_allowed.set(made.memory)
    result = session(made.model, threads=made.threads, optimise=made.optimise, providers=made.providers)
    result.outputs = outputs
    return result


def session(
    model: ModelLike,
    *,
    threads: int = 1,
    optimise: bool = True,
    reuse: bool = False,
    whole: bool = False,
    providers: Sequence[str] | None = None,
) -> Session:
    """Load a model for inference on ``threads`` threads, with all or none of ONNX Runtime's graph optimisations.

    Without these memory is given back as soon as it is free, unless it is to be used again (``reuse``, by any session opened so), which is
    faster; see ``release_shared_memory``. What is too
    large is loaded segment by segment, again for every run, unless it is to be loaded as a ``whole``.

    Raises ModelError when ONNX Runtime refuses the model, UsageError for a provider that is not available here.
    """
    import onnxruntime as ort

    chosen = _available(providers or CPU, ort.get_available_providers())
    name = os.fspath(model) if isinstance(model, str | os.PathLike) else "the model"

    def opened(part: ModelLike, packs: bool = False) -> tuple[Any, list[Any]]:
        options = _options(threads, optimise, reuse, packs)
        content, weights = _loadable(part, options)
        return ort.InferenceSession(content, options, providers=chosen), [] if optimise else weights

    def opened_alone(part: ModelLike) -> tuple[Any, list[Any]]:
        release_memory()  # what the part before has touched of files counts as memory too
        return opened(part)

    made = Opened(model, threads, optimise, tuple(chosen), memory_allowed.get())
    try:
        if not whole and isinstance(model, Model) and runs_in_segments(model):
            return Session(Segmented(model, opened_alone), name, (), made)
        inference, weights = opened(model, packs=optimise)
        return Session(inference, name, weights, made)
    except Exception as error:
        raise ModelError(f"{name} cannot be loaded by ONNX Runtime: {_reason(error)}") from error


def _options(threads: int, optimise: bool, reuse: bool, packs: bool) -> Any:
    """Return ONNX Runtime's options; ``packs``: whether products keep copies of their weights in an order that is faster."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # reasons arrive as exceptions
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    for key, value in CONFIG.items():
        options.add_session_config_entry(key, value)
    if not packs:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if reuse:
        _share_memory()
        options.add_session_config_entry(*SHARED)
    if not optimise:
        options.enable_cpu_mem_arena = reuse
        options.execution_order = (
            ort.ExecutionOrder.PRIORITY_BASED
        )  # as stored: what is made of weights alone not all at first
    return options


SHARED = ("session.use_env_allocators", "1")


@cache
def _share_memory() -> None:
    """Let sessions that ask for it take their memory from one pool: what one gave back another takes, which spares the system's pages."""
    import onnxruntime as ort

    place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(place, ort.OrtArenaCfg(0, SAME_AS_REQUESTED, -1, -1))


def release_shared_memory() -> None:
    """Return the pool of ``session(reuse=True)`` to the system, as far as nobody uses it."""
    import onnxruntime as ort

    nothing = onnx.helper.make_tensor_value_info("x", 1, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "none", [nothing], [onnx.helper.make_tensor_value_info("y", 1, [1])])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    opened = session(proto, optimise=False, reuse=True)
    opened._inference.run(None, {"x": np.zeros(1, np.float32)}, options)
    release_memory()


def revealing(model: Model, names: Iterable[str], *, threads: int = 1, optimise: bool = True) -> Session:
    """Load a model with inner values among its outputs; see ``session``."""
    probe = model.draft()
    give_out(probe, names)
    return session(model.derived(probe), threads=threads, optimise=optimise)


def _loadable(model: ModelLike, options: Any) -> tuple[str | bytes, list[Any]]:
    """Return what InferenceSession takes, and the weights that have to live until it is there, or as long as it where they are shared."""
    if isinstance(model, onnx.ModelProto | Model):
        return _in_memory(model if isinstance(model, Model) else Model.of(model), options)
    return (model if isinstance(model, bytes) else os.fspath(model)), []


def _in_memory(model: Model, options: Any) -> tuple[bytes, list[Any]]:
    """Lend large weights to ONNX Runtime beside the structure: no second copy, no 2 GB limit of a message.

    ONNX Runtime copies what it only knows as external, and while a session begins also what is shared, unless the file is named
    that it lies in. An optimiser might change what has a shared tensor's name: without optimisation alone weights are shared.
    """
    structure, lent, outside = model.draft(), {}, []
    for header in structure.graph.initializer:
        tensor = model.weights[header.name]
        if tensor.dtype not in MAPPED | NAMED or not (tensor.external or (tensor.raw and tensor.nbytes >= LARGE)):
            embed_header(header, tensor)
            continue
        lent[header.name] = _lent(tensor)
        if not _is_plain_run(options) or tensor.region is None:
            _refer_to(header, "in_memory")
            outside.append(header.name)
    folder = _refer_to_files(structure, model, [name for name in lent if name not in outside])
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    if outside:
        options.add_external_initializers(outside, [lent[name] for name in outside])
    for name, value in lent.items() if _is_plain_run(options) else ():
        options.add_initializer(name, value)
    return structure.SerializeToString(), list(lent.values())


def _is_plain_run(options: Any) -> bool:
    import onnxruntime as ort

    return options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def _refer_to_files(structure: onnx.ModelProto, model: Model, names: Collection[str]) -> Path | None:
    """Let headers name the regions of files that their tensors are; return the folder of these files, None for none."""
    chosen = [header for header in structure.graph.initializer if header.name in names]
    regions = [region for header in chosen if (region := model.weights[header.name].region) is not None]
    if not regions:
        return None
    folder = Path(os.path.commonpath([file.parent for file, _ in regions]))
    for header, (file, offset) in zip(chosen, regions, strict=True):
        _refer_to(header, file.relative_to(folder).as_posix(), offset, model.weights[header.name].nbytes)
    return folder


def _refer_to(header: onnx.TensorProto, location: str, offset: int = 0, length: int = 0) -> None:
    del header.external_data[:]
    header.external_data.add(key="location", value=location)
    if length:
        header.external_data.add(key="offset", value=str(offset))
        header.external_data.add(key="length", value=str(length))


def _lent(tensor: Tensor) -> Any:
    """Return a tensor's content as a value of ONNX Runtime that shares its memory."""
    import onnxruntime as ort

    array = np.ascontiguousarray(tensor.read()).reshape(tensor.shape)  # ascontiguousarray makes a vector of a scalar
    if tensor.dtype in MAPPED:
        return ort.OrtValue.ortvalue_from_numpy(array)
    plain = array.view(np.dtype(f"u{array.dtype.itemsize}"))
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(plain, tensor.dtype)


def _available(providers: Sequence[str], available: list[str]) -> list[str]:
    for provider in providers:
        if provider not in available:
            hint = near_names(provider, available) or f"; available: {', '.join(available)}"
            raise UsageError(f"execution provider {provider!r} is not available in this ONNX Runtime{hint}")
    return list(providers)


def _reason(error: Exception) -> str:
    """Return the first line of a message, without ONNX Runtime's prefix ``[ONNXRuntimeError] : 1 : FAIL : ``."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.split(" : ", 3)[-1] if line.startswith("[ONNXRuntimeError]") else line


def release_memory() -> None:
    """Return freed memory to the system, which glibc keeps otherwise, and take large arrays that lie in files out of it."""
    let_pages_go()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def observe_shapes(
    model: Model, feeds: Mapping[str, np.ndarray], names: Sequence[str]
) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Run a model once and return (element type, shape) of the named inner tensors; {} where it cannot be run."""
    try:
        found = revealing(model, names, optimise=False).run(feeds, names)
    except ModelError:
        return {}
    arrays = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
    return {name: (onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for name, a in arrays.items()}


def runtime_version() -> str:
    """Return the version of ONNX Runtime."""
    import onnxruntime

    return onnxruntime.__version__
