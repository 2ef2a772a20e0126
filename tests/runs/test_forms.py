"""Every option that runs the model against every form that files come in: it works, or ends with a documented error.

``FAILS`` lists the cells that end with one, by what a form lacks; all others meet their target.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.forms import FORMS, Form

from onnxprune import api
from onnxprune.errors import DataError, ModelError, OnnxPruneError, TargetError
from onnxprune.gating import FAMILIES
from onnxprune.recover.objective import LOSSES
from onnxprune.settings import REPAIRS

FAST = {"latency": False, "round_to": 1}


def _pruned(**settings: Any) -> Callable[[Form], Mapping[str, Any]]:
    return lambda form: api.prune(form.model, calibration=form.data, **FAST, **settings).report


def _labelled(form: Form) -> Mapping[str, Any]:
    settings = {"criterion": "l2", "ratio": 0.4, "recover": 1, "recover_loss": "labels"} | FAST
    return api.prune(form.model, calibration=form.data, labels=form.labels, **settings).report


def _swept(form: Form) -> Mapping[str, Any]:
    (point,) = api.sweep(
        form.model, calibration=form.data, ratios=[0.4], criteria=["wanda"], repairs=["bias"], round_to=1
    )["points"]
    assert point["error"] is None, point
    return {}


# one criterion for each kind of evidence
CRITERIA = {
    "obs": "gram",
    "apoz": "range",
    "entropy": "histogram",
    "hrank": "ranks",
    "wanda": "moments",
    "kl": "ablation",
}
HELD = [name for name in FAMILIES if FAMILIES[name].held]
GRADIENTS = {"taylor": "weights", "group-fisher": "gates", "kron-obs": "outputs", "grasp": "second order"}
OPTIONS: dict[str, Callable[[Form], Mapping[str, Any]]] = {
    **{name: _pruned(criterion=name, repair="none", ratio=0.4) for name in (*CRITERIA, *GRADIENTS)},
    **{f"gates {name}": _pruned(criterion=f"gates:{name}", ratio=0.4, gate_training=2) for name in HELD},
    "gates moving": _pruned(criterion="gates:l0", ratio=0.4, gate_training=4, gate_weights="moving"),
    **{f"repair {name}": _pruned(criterion="l2", repair=name, ratio=0.4) for name in REPAIRS},
    **{
        f"recover {loss}": _pruned(criterion="l2", repair="none", ratio=0.4, recover=1, recover_loss=loss)
        for loss in LOSSES
        if loss not in ("auto", "labels")  # auto: distill, with labels labels too
    },
    "recover labels": _labelled,
    "schedule": _pruned(criterion="l2", repair="bias", target="macs=80%", schedule="linear:2", recover=2),
    "target": _pruned(target="macs=80%"),
    "search": _pruned(max_divergence=10.0, search=0.001, search_recover=1),
    "eigen": _pruned(granularity="eigen", target="macs=95%"),
    "rank": _pruned(granularity="rank", target="macs=95%"),
    "block": _pruned(granularity="block", ratio=0.9),
    "mix": _pruned(granularity="lossless,block,heads,eigen", target="macs=85%", share={"block": 0.2, "eigen": 0.2}),
    "quantize int8": _pruned(criterion="l2", repair="none", ratio=0.4, quantize="int8"),
    "quantize dynamic": _pruned(criterion="l2", repair="none", ratio=0.4, quantize="dynamic"),
    "dynamic": _pruned(criterion="l2", repair="none", ratio=0.6, dynamic="macs=95%"),
    "matmul as gemm": _pruned(criterion="l2", repair="none", ratio=0.4, matmul_as="gemm"),
    "matmul as conv": _pruned(criterion="l2", repair="none", ratio=0.4, matmul_as="conv"),
    "sensitivity": lambda form: api.sensitivity(form.model, form.data, round_to=1),
    "sweep": _swept,
    "validate": lambda form: api.validate(form.model, form.model, form.data),
}
GATES = (*(f"gates {name}" for name in HELD), "gates moving")
WHOLE_GRADIENTS = (
    *GRADIENTS,
    *GATES,
    "recover distill",
    "recover mse",
    "recover labels",
    "schedule",
    "search",
    "eigen",
)
NO_GRADIENT = dict.fromkeys(WHOLE_GRADIENTS, (ModelError, "no gradient through"))
NO_FLOATS = dict.fromkeys((*GRADIENTS, "eigen"), (DataError, "of float outputs, and the model has none")) | {
    name: (DataError, "compares float outputs, and the model has none")
    for name in (*(f"recover {loss}" for loss in LOSSES), *GATES, "schedule", "search")
}
NO_LAYER = dict.fromkeys(
    ("eigen", "rank"), (TargetError, "no layer of this model can be written as factors|out of reach")
)
HALF_PRECISION = dict.fromkeys(("quantize int8", "quantize dynamic"), (ModelError, "computes in float16"))
SEVERAL = {"dynamic": (ModelError, "a gate decides on whole samples")}
DECIDES = {"dynamic": (ModelError, "decides at run time already")}
NO_BRANCH = dict.fromkeys(("block", "mix"), (TargetError, "no sum of this model has a branch"))
FAILS: dict[str, Mapping[str, tuple[type[OnnxPruneError], str]]] = {
    "If": NO_GRADIENT | DECIDES,
    "Loop": NO_GRADIENT | NO_BRANCH | DECIDES,
    "fixed batch 4": SEVERAL,
    "a sequence value": NO_GRADIENT,
    "integer outputs": NO_FLOATS,
    "bfloat16 weights": NO_LAYER,
    "int8 weights": NO_LAYER,
    "Einsum": NO_LAYER | NO_BRANCH,
    "LSTM": NO_BRANCH,
    "rows are sequences": NO_BRANCH,
    "float16, external data": HALF_PRECISION,
}
FEW = ("obs", "repair auto", "repair bias", "recover distill", "recover blocks", "schedule", "target", "eigen", "rank")
ONLY: dict[str, tuple[str, ...]] = {
    "int8 weights": FEW,
    "random numbers": (*FEW, *GRADIENTS, "kl"),
    "GRU": (*GRADIENTS, "target"),
    "RNN": (*GRADIENTS, "target"),
}
"""Forms that differ from another one for some options alone."""
ALIKE: tuple[tuple[str, ...], ...] = (
    ("obs", "apoz", "entropy", "hrank", "wanda"),
    tuple(GRADIENTS),
    tuple(f"repair {name}" for name in REPAIRS if name != "auto"),
    ("recover distill", "recover mse", "recover blocks"),
    GATES,
    ("search", "sensitivity", "sweep"),
    ("quantize int8", "quantize dynamic"),
    ("matmul as gemm", "matmul as conv"),
)
"""Options that go the same way through a file and its rows, and differ in what they do with numbers: a form gets a part of them."""
ASKED = {"schedule": 0.8, "target": 0.8, "eigen": 0.95, "rank": 0.95, "mix": 0.85}
"""Share of the MACs that may be left."""


def options_for(form: str) -> list[str]:
    """Return what a form is tried with: every way, and two of those that are alike, other ones than the forms beside it."""
    number, given = list(FORMS).index(form), list(ONLY.get(form, OPTIONS))
    left_out = set()
    for alike in ALIKE if form not in ONLY else ():
        rotated = [alike[(number + place) % len(alike)] for place in range(len(alike))]
        left_out.update(rotated[2 if len(alike) > 3 else 1 :])
    return [option for option in given if option not in left_out]


def test_every_option_meets_several_forms() -> None:
    met = {option: [form for form in FORMS if option in options_for(form)] for option in OPTIONS}
    assert all(len(found) >= 5 for found in met.values()), {o: len(f) for o, f in met.items()}


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Form]:
    return cache(lambda name: FORMS[name](tmp_path_factory.mktemp("form")))


@pytest.mark.parametrize("form", FORMS)
def test_every_option_takes_every_form_of_file(
    form: str, forms: Callable[[str], Form], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # external data is beside the model, not here
    monkeypatch.setattr("onnxprune.search.widths.BISECTIONS", 2)
    monkeypatch.setattr("onnxprune.search.widths.PLAIN", ("mixed",))  # fewer proposals
    found = forms(form)
    wrong = {}
    for option in options_for(form):
        if option == "recover labels" and found.labels is None:
            continue
        problem = _problem(option, OPTIONS[option], found, FAILS.get(form, {}).get(option))
        if problem:
            wrong[option] = problem
    assert not wrong, "\n".join(f"{form} x {option}: {problem}" for option, problem in wrong.items())
    assert not os.listdir(tmp_path)


def _problem(
    option: str, run: Callable[[Form], Mapping[str, Any]], form: Form, expected: tuple[type[OnnxPruneError], str] | None
) -> str:
    """Return what is wrong with a cell of the table ("": nothing)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            report = run(form)
    except OnnxPruneError as error:
        if expected is None:
            return f"{type(error).__name__}: {error}"
        try:
            with pytest.raises(expected[0], match=expected[1]):
                raise error
        except BaseException:
            return f"{type(error).__name__}: {error}, not {expected}"
        return ""
    except Exception as error:
        return f"unexpected {type(error).__name__}: {error}"
    if expected is not None:
        return f"works, but is listed as {expected}"
    if "after" not in report or option == "validate":
        return ""
    left = report["after"]["macs"] / report["before"]["macs"]
    return f"{left:.3f} of the MACs are left" if left > ASKED.get(option, 0.999) else ""
