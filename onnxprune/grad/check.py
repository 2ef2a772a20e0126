"""Check of gradients against central differences along a direction: public, so that users can test their own models."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, helper

from onnxprune.errors import ModelError, UsageError
from onnxprune.grad.builder import FLOATS, Derivative, build, gradient_name, loss_name
from onnxprune.grad.emitter import FLOATING
from onnxprune.grad.losses import Loss, total
from onnxprune.means import Means
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.read import Model, load
from onnxprune.model.runtime import Arrays, Session, session

MASKED = 1e4
"""Stored values from here on are masks and the like; varying them says nothing."""

TOLERANCE: dict[int, float] = {TensorProto.DOUBLE: 1e-5, TensorProto.FLOAT: 5e-3}
"""Relative: float64 is limited by the step's truncation, float32 by rounding (1e-7 / step) and kinks (ReLU)."""

STEPS: dict[int, tuple[float, ...]] = {
    TensorProto.DOUBLE: (1e-4, 1e-6, 1e-3, 1e-7),
    TensorProto.FLOAT: (1e-4, 1e-5, 1e-6, 1e-3, 1e-2, 1e-7),
}
"""Steps tried until the tolerance is met, relative to the values varied: which one fits depends on the model."""


@dataclass(frozen=True)
class GradCheck:
    """``analytic`` and ``numeric`` derivative along one random direction, and how far they are apart."""

    analytic: float
    numeric: float
    dtype: str
    tolerance: float

    @property
    def error(self) -> float:
        """|analytic - numeric| relative to the larger of the two."""
        if not np.isfinite([self.analytic, self.numeric]).all():
            return np.inf
        scale = max(abs(self.analytic), abs(self.numeric), np.finfo(np.float64).tiny)
        return abs(self.analytic - self.numeric) / scale

    @property
    def passed(self) -> bool:
        return bool(self.error <= self.tolerance)


def check_grads(
    model: Model | ModelProto | str,
    wrt: Sequence[str] | None = None,
    loss: Loss | None = None,
    feeds: Mapping[str, np.ndarray] | None = None,
    *,
    means: Means = Means(),
    tolerance: float | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> GradCheck:
    """Compare the gradient's projection on a random direction with central differences of the loss.

    ``wrt``: inputs and parameters (None: see ``default_targets``). ``loss`` None: the float outputs weighted by random
    numbers. ``feeds``: what is missing is drawn at random. Runs in float64 where ONNX Runtime's CPU kernels allow it,
    else in float32; the default ``tolerance`` is that of the type (``TOLERANCE``). The direction is half random, half
    the sign of the gradient, so that the derivative along it is not zero by chance.

    Raises UsageError for values that are neither inputs nor parameters, ModelError for what cannot be differentiated.
    """
    source = model if isinstance(model, Model) else load(model)
    names = list(wrt) if wrt is not None else default_targets(source)
    outputs = [] if loss else float_outputs(source, input_shapes)
    for dtype in (TensorProto.DOUBLE, TensorProto.FLOAT):
        try:
            asked = Derivative(names, outputs, True, input_shapes, dtype, _free_order(source))
            problem = _problem(source, loss, feeds or {}, asked, means)
            return _check(problem, means.seed, TOLERANCE[dtype] if tolerance is None else tolerance)
        except ModelError:
            if dtype == TensorProto.FLOAT:
                raise
    raise AssertionError("unreachable: the float32 pass returns or raises")


def float_outputs(model: Model, input_shapes: Mapping[str, Sequence[int]] | None = None) -> list[str]:
    """Return the float outputs of a model."""
    graph = Graph(model.structure)
    facts = gather_facts(model, graph, input_shapes)
    return [name for name in graph.outputs if facts.dtype(name) in FLOATS]


def default_targets(model: Model) -> list[str]:
    """Return the float inputs and those float initializers that are weights: no scalars, scales of Resize, or masks.

    16-bit inputs are left out: the steps would drown in their rounding.
    """
    graph = model.structure.graph
    stored = {tensor.name for tensor in graph.initializer}
    scales = {name for node in graph.node if node.op_type in ("Resize", "Upsample") for name in node.input[1:]}
    inputs = [v.name for v in graph.input if v.type.tensor_type.elem_type in FLOATING and v.name not in stored]
    floats = [t for t in graph.initializer if t.data_type in FLOATS and t.name not in scales]
    return inputs + [t.name for t in floats if _varies(model.array(t))]


def _varies(array: np.ndarray) -> bool:
    return array.size > 1 and bool(np.abs(array.astype(np.float64)).max() < MASKED)


@dataclass(frozen=True)
class _Problem:
    """A gradient session, the point to differentiate at and, for the default loss, the weights of the outputs."""

    session: Session
    point: dict[str, np.ndarray]
    names: list[str]
    weights: dict[str, str]
    dtype: int
    order: int

    def loss(self, feeds: Mapping[str, np.ndarray]) -> float:
        """Return the loss; the default one is summed here in float64, whatever the model computes in."""
        if not self.weights:
            return float(
                np.sum(self.session.run(feeds, [loss_name(self.order)])[loss_name(self.order)], dtype=np.float64)
            )
        found = self.session.run(feeds, list(self.weights))
        return float(
            sum(np.vdot(found[o].astype(np.float64), feeds[w].astype(np.float64)) for o, w in self.weights.items())
        )


def _free_order(source: Model) -> int:
    """Return the lowest order of differentiation that the model is not itself the result of."""
    taken = {name for node in source.structure.graph.node for name in node.output}
    return next(n for n in itertools.count(1) if loss_name(n) not in taken)


def _problem(
    source: Model, loss: Loss | None, feeds: Mapping[str, np.ndarray], asked: Derivative, means: Means
) -> _Problem:
    names = list(asked.wrt)
    weights = {o: f"weights:{o}" if len(asked.outputs) > 1 else "weights" for o in asked.outputs}
    proto, emit = build(source, loss or total(weights="weights"), asked)
    declared = {value.name: value.type.tensor_type.elem_type for value in proto.graph.input}
    for name in names:
        if name not in declared:
            raise UsageError(f"{name!r} is neither an input nor a stored parameter; check_grads varies only those")
    stored = Graph(source.structure).tensors
    random = np.random.default_rng([means.seed, 2])
    point = {}
    for name, kind in declared.items():
        given = feeds[name] if name in feeds else source.array(stored[name]) if name in stored else None
        given = _drawn(random, emit.first[name].shape, kind) if given is None else given
        point[name] = np.asarray(given, helper.tensor_dtype_to_np_dtype(kind))
    return _Problem(session(proto, threads=means.threads), point, names, weights, asked.dtype, asked.order)


def _drawn(random: np.random.Generator, shape: Sequence[int] | None, kind: int) -> np.ndarray:
    """Normal floats; ones elsewhere: valid as tokens and labels, and masks that mask nothing.

    A row masked as a whole would have a gradient that no difference shows: its scores drown in the mask added to them.
    """
    floats = helper.tensor_dtype_to_np_dtype(kind).kind == "f"
    return random.standard_normal(shape) if floats else np.ones(shape or ())


def _check(problem: _Problem, seed: int, tolerance: float) -> GradCheck:
    """Raise ModelError where a gradient cannot be computed; differences of fourth order: (8 d(h) - d(2h)) / 12 h."""
    found = problem.session.run(problem.point, [gradient_name(n, problem.order) for n in problem.names])
    gradients = {name: found[gradient_name(name, problem.order)].astype(np.float64) for name in problem.names}
    direction = _direction(problem, gradients, np.random.default_rng([seed, 1]))
    analytic = float(sum(np.vdot(gradients[name], d) for name, d in direction.items()))
    best = None
    for step in STEPS[problem.dtype]:
        near, far = (_difference(problem, direction, k * step) for k in (1, 2))
        numeric = (8 * near - far) / (12 * step)
        result = GradCheck(analytic, numeric, TensorProto.DataType.Name(problem.dtype), tolerance)
        best = result if best is None or result.error < best.error else best
        if best.passed:
            break
    assert best is not None
    return best


def _direction(
    problem: _Problem, gradients: Mapping[str, np.ndarray], random: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return per value a random part and a part along the sign of its gradient, both of the element's own size."""
    direction = {}
    for name, gradient in gradients.items():
        point = np.abs(problem.point[name].astype(np.float64))
        size = point + 0.1 * (np.sqrt(np.mean(point**2)) or 1.0)
        direction[name] = size * (random.standard_normal(gradient.shape) + np.sign(gradient))
    return direction


def _difference(problem: _Problem, direction: Arrays, step: float) -> float:
    ends = []
    for sign in (1, -1):
        point = dict(problem.point)
        for name, d in direction.items():
            point[name] = np.asarray(point[name] + sign * step * d, point[name].dtype)
        ends.append(problem.loss(point))
    return ends[0] - ends[1]
