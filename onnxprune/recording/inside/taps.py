"""Lets recorders see what ONNX Runtime's sessions are fed, by wrapping the methods that feed them.

The classes themselves stay, so that subclasses, sessions opened before and names imported before are seen too. The module is wrapped
when the program imports it; nothing is imported for it, numpy neither.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    from .recorder import Recorder

    Method = Callable[..., Any]

MODULE = "onnxruntime.capi.onnxruntime_inference_collection"

active: list[Recorder] = []
"""The recorders that are recording in this process."""
_originals: list[tuple[type, str, Method]] = []  # class, name of a method, the method
_bound: weakref.WeakKeyDictionary[Any, dict[str, Any]] = weakref.WeakKeyDictionary()  # IOBinding -> input -> value


def attach(recorder: Recorder) -> None:
    """Let a recorder see all sessions of this process from now on."""
    active.append(recorder)
    if MODULE in sys.modules:
        _wrap(sys.modules[MODULE])
    else:
        sys.meta_path.insert(0, _Watch(_wrap))


def begin(settings: Mapping[str, Any]) -> None:
    """Attach a recorder as soon as the program imports ONNX Runtime; ``settings``: its folder and limits."""

    def attached(module: ModuleType) -> None:
        from .recorder import Recorder
        from .reservoir import Limits

        limits = {name: value for name, value in settings.items() if name != "folder"}
        active.append(Recorder(settings["folder"], Limits(**limits)))
        _wrap(module)

    sys.meta_path.insert(0, _Watch(attached))


def detach(recorder: Recorder) -> None:
    """End a recording in this process; with the last one the classes are as they were."""
    active.remove(recorder)
    if not active:
        for owner, name, original in _originals:
            if getattr(owner.__dict__.get(name), "__wrapped__", None) is original:
                setattr(owner, name, original)
        _originals.clear()
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Watch)]


class _Watch:
    """Waits for the import of the module with the sessions; finds it as it would have been found, and hands it over once loaded."""

    def __init__(self, loaded: Callable[[ModuleType], None]):
        self._loaded = loaded

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        loader: Any = getattr(spec, "loader", None)
        load = getattr(loader, "exec_module", None)
        if load is None:
            return spec

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module
            load(module)
            self._loaded(module)

        loader.exec_module = exec_module
        return spec


def _wrap(module: ModuleType) -> None:
    if _originals:
        return
    for owner, methods in WRAPPERS.items():
        kind: Any = getattr(module, owner, None)
        for name, wrapper in methods.items():
            original = getattr(kind, "__dict__", {}).get(name)
            if original is not None:
                _originals.append((kind, name, original))
                setattr(kind, name, functools.wraps(original)(wrapper(original)))


def _argument(arguments: Sequence[Any], named: Mapping[str, Any], place: int, name: str) -> Any:
    """Return an argument of a method, given by place or by name."""
    return arguments[place] if place < len(arguments) else named.get(name)


def _init(original: Method) -> Method:
    def __init__(self: Any, *arguments: Any, **named: Any) -> None:
        original(self, *arguments, **named)
        for recorder in list(active):
            recorder.opened(self)

    return __init__


def _run(feeds: str) -> Callable[[Method], Method]:
    """Return a wrapper for a method that takes names of outputs, then the feeds, and returns the results."""

    def wrapper(original: Method) -> Method:
        def run(self: Any, *arguments: Any, **named: Any) -> Any:
            results = original(self, *arguments, **named)
            fed, names = _argument(arguments, named, 1, feeds), _argument(arguments, named, 0, "output_names")
            for recorder in list(active):
                recorder.took(self, fed, names, results)
            return results

        return run

    return wrapper


def _run_async(original: Method) -> Method:
    def run_async(
        self: Any, output_names: Any, input_feed: Any, callback: Method, user_data: Any, *arguments: Any, **named: Any
    ) -> Any:
        fed = [(recorder, recorder.before(self, input_feed)) for recorder in list(active)]

        def called(results: Any, user_data: Any, problem: Any) -> Any:
            for recorder, feeds in fed:
                if feeds is not None and not problem:
                    recorder.took(self, feeds, output_names, results)
            return callback(results, user_data, problem)

        return original(self, output_names, input_feed, called, user_data, *arguments, **named)

    return run_async


def _run_with_iobinding(original: Method) -> Method:
    def run_with_iobinding(self: Any, *arguments: Any, **named: Any) -> Any:
        binding = _argument(arguments, named, 0, "iobinding")
        fed = [(recorder, recorder.before(self, dict(_bound.get(binding, {})))) for recorder in list(active)]
        result = original(self, *arguments, **named)
        for recorder, feeds in fed:
            if feeds is not None:
                recorder.took(self, feeds, None, _bound_results(recorder, binding))
        return result

    return run_with_iobinding


def _bound_results(recorder: Recorder, binding: Any) -> Any:
    """Return the outputs of a binding as they lie on the CPU; nothing where they are not wanted or elsewhere."""
    if not recorder.limits.outputs:
        return None
    try:
        return binding.get_outputs()
    except Exception as error:
        recorder.failed(error)
        return None


def _bind(value: Callable[[Sequence[Any], Mapping[str, Any]], Any]) -> Callable[[Method], Method]:
    """Return a wrapper for a method that binds an input; ``value`` makes of its arguments what is bound."""

    def wrapper(original: Method) -> Method:
        def bind(self: Any, *arguments: Any, **named: Any) -> Any:
            result = original(self, *arguments, **named)
            if active:
                try:
                    table = _bound.setdefault(self, {})
                    table[_argument(arguments, named, 0, "name")] = value(arguments, named)
                except Exception as error:
                    for recorder in active:
                        recorder.failed(error)
            return result

        return bind

    return wrapper


def _by_address(arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
    from .feeds import Bound

    device, kind, shape, address = (
        _argument(arguments, named, place, name)
        for place, name in ((1, "device_type"), (3, "element_type"), (4, "shape"), (5, "buffer_ptr"))
    )
    return Bound(kind, shape, address) if str(device).lower() == "cpu" and not isinstance(kind, int) else None


def _clear(original: Method) -> Method:
    def clear_binding_inputs(self: Any, *arguments: Any, **named: Any) -> Any:
        _bound.pop(self, None)
        return original(self, *arguments, **named)

    return clear_binding_inputs


WRAPPERS: dict[str, dict[str, Callable[[Method], Method]]] = {
    "InferenceSession": {"__init__": _init},
    "Session": {
        "run": _run("input_feed"),
        "run_with_ort_values": _run("input_dict_ort_values"),
        "run_async": _run_async,
        "run_with_iobinding": _run_with_iobinding,
    },
    "IOBinding": {
        "bind_cpu_input": _bind(lambda arguments, named: _argument(arguments, named, 1, "arr_on_cpu")),
        "bind_ortvalue_input": _bind(lambda arguments, named: _argument(arguments, named, 1, "ortvalue")),
        "bind_input": _bind(_by_address),
        "clear_binding_inputs": _clear,
    },
}
"""Class -> method -> what it is wrapped in."""


def _forked() -> None:
    _bound.clear()
    for recorder in active:
        recorder.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
