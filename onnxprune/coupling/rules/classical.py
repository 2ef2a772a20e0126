"""Operators of classical machine learning (ai.onnx.ml): features pass through where each is treated by itself."""

from __future__ import annotations

from onnxprune.coupling.edits import Edits, KeptPositions
from onnxprune.coupling.families import normalisation, pointwise
from onnxprune.coupling.spec import Spec, View, frozen, rule

PER_FEATURE = ("offset", "scale", "imputed_value_floats", "imputed_value_int64s")


def _features(view: View, cut: KeptPositions) -> Edits:
    """Attributes with one entry per feature lose the entries of the features that go."""
    axis = view.rank() - 1
    kept = cut.kept(view.node.inputs[0], axis, view.shape(0)[axis])
    given = {name: view.attribute(name) for name in PER_FEATURE if len(view.attribute(name, ())) > 1}
    return Edits({name: [values[k] for k in kept] for name, values in given.items()})


@rule("ai.onnx.ml::Scaler", "ai.onnx.ml::Imputer", family="per-channel", rewrite=_features)
def per_feature(view: View) -> Spec:
    """The last axis holds the features, of one sample or of each row."""
    return pointwise(view) if view.rank() <= 2 else frozen(view, "features on more than two axes")


@rule("ai.onnx.ml::Binarizer", family="pointwise")
def binarizer(view: View) -> Spec:
    return pointwise(view)


@rule("ai.onnx.ml::Normalizer", family="normalisation")
def normalizer(view: View) -> Spec:
    return normalisation(view, [view.rank() - 1])
