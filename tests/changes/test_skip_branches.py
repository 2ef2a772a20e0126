"""Branches whose sum is inside of a norm go as any others."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from support.decoders import FORMS, Form, decoder, generated, token_rows

import onnxprune
from onnxprune.coupling.skips import sums_apart, sums_joined
from onnxprune.model.facts import gather_facts
from onnxprune.model.graph import Graph
from onnxprune.model.model import Model
from onnxprune.model.runtime import session


def kinds(model: onnx.ModelProto) -> Counter:
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("form", ["separate", "layer norms", "4 bits"])
def test_apart_and_together_again_is_the_same_file(form):
    model = Model.of(decoder(FORMS[form]))
    plain, joined = sums_apart(gather_facts(model, Graph(model.structure)))
    assert len(joined) == 4 and not any(name.startswith("Skip") for name in kinds(plain.structure))
    tokens = token_rows(FORMS[form], 2)
    one, two = (generated(session(each).run, model.structure, tokens, 0) for each in (model, plain))
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    assert sums_joined(plain, joined).structure.SerializeToString() == model.structure.SerializeToString()


@pytest.mark.parametrize("form", ["separate", "layer norms", "half precision", "8 bits"])
def test_neurons_of_a_layer_go_whole(form):
    rows = {"input_ids": token_rows(FORMS[form], 8)}
    found = onnxprune.prune(decoder(FORMS[form]), ratio=0.5, granularity="block", calibration=rows, latency=False)
    (gone,) = [block for block in found.report["blocks"] if block["status"] == "removed"]
    assert found.report["surgery"]["exact"] and gone["macs"] > 0 and len(found.report["blocks"]) == 2
    left, norm = kinds(found.model), "Layer" if form == "layer norms" else "SimplifiedLayer"
    assert left[f"Skip{norm}Normalization"] == 2 and left[f"{norm}Normalization"] == 2
    tokens = token_rows(FORMS[form], 2, seed=3)
    assert np.isfinite(generated(session(found.model).run, found.model, tokens, 2)).all()


def test_what_is_not_plain_stays_as_it_is():
    model = Model.of(decoder(Form(layers=1)))
    structure = model.draft()
    skip = next(node for node in structure.graph.node if node.op_type.startswith("Skip"))
    structure.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(64, np.float32), "own_bias"))
    skip.input.append("own_bias")
    changed = model.derived(structure)
    _, joined = sums_apart(gather_facts(changed, Graph(changed.structure)))
    assert skip.output[0] not in joined and len(joined) == 1
