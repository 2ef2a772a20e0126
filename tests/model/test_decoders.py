"""Decoders with a cache: what they are fed is found by structure, their sizes fit together, and shapes are known without a run."""

from __future__ import annotations

import numpy as np
import pytest
from support.decoders import FORMS, Form, decoder
from support.networks import network

from onnxprune.model.contrib import SHAPES
from onnxprune.model.decoding import NO_DECODER, PastState, consistent, decoding_of
from onnxprune.model.facts import UNKNOWN, gather_facts, interpret, plain_feeds
from onnxprune.model.graph import Graph
from onnxprune.model.model import Model
from onnxprune.model.runtime import revealing
from onnxprune.model.sizes import candidate_sizes, further_candidates


def graph(form: str) -> Graph:
    return Graph(decoder(FORMS[form]))


@pytest.mark.parametrize("form", FORMS)
def test_what_is_fed_is_found(form):
    decoding = decoding_of(graph(form))
    assert [(cache.past, cache.present) for cache in decoding.caches] == [
        (f"past_key_values.{layer}.{part}", f"present.{layer}.{part}") for layer in (0, 1) for part in ("key", "value")
    ]
    assert decoding.tokens == "input_ids" and decoding.masks == ("attention_mask",)
    assert decoding.counted == (FORMS[form].attention == "grouped")
    assert decoding.flags == (("use_cache_branch",) if FORMS[form].merged else ())


def test_other_models_have_no_cache():
    model = network("c = Concat<axis = 2>(x, x); y = Relu(c)", "float[b,2,n,4] x", "float[b,2,m,4] y")
    assert decoding_of(Graph(model)) == NO_DECODER


def test_attention_knows_the_width_that_the_file_leaves_open():
    assert decoding_of(graph("packed")).caches[0] == PastState("past_key_values.0.key", "present.0.key", 2, 16)


@pytest.mark.parametrize("form", FORMS)
def test_sizes_that_are_tried_fit_together_and_run(form):
    model = Model.of(decoder(FORMS[form]))
    sizes = [candidate.sizes for candidate in candidate_sizes(Graph(model.structure), {})]
    for each in sizes:
        past = each["past_key_values.0.key"][2]
        assert each["attention_mask"][1] == past + each["input_ids"][1] and (past > 0) != FORMS[form].merged
        assert each["past_key_values.1.value"][2:] == (past, 16)
    facts = gather_facts(model, Graph(model.structure))
    assert all(facts.shape(name) is not None for node in facts.graph.top for name in node.outputs if name)


def test_sizes_of_rows_grow_together_from_an_empty_cache():
    model = decoder()
    rows = {"input_ids": (1, 10), "attention_mask": (1, 10)}
    rows |= {f"past_key_values.{layer}.{part}": (1, 2, 0, 16) for layer in (0, 1) for part in ("key", "value")}
    grown = next(iter(further_candidates(Graph(model), {}, rows, {})))
    assert grown["input_ids"][1] == 20 and grown["past_key_values.1.key"][2] == 5 and grown["attention_mask"][1] == 25


@pytest.mark.parametrize("form", [name for name, form in FORMS.items() if form.attention != "spelled"])
def test_shapes_of_operators_without_a_schema_are_those_of_a_run(form):
    model = Model.of(decoder(FORMS[form]))
    graph = Graph(model.structure)
    for candidate in list(candidate_sizes(graph, {}))[
        2:4
    ]:  # grouped attention takes several tokens behind a past for one sample
        values = interpret(graph, model, candidate.sizes)
        names = [name for node in graph.nodes if node.op in SHAPES for name in node.outputs if name]
        found = revealing(model, names, optimise=False).run(plain_feeds(graph, values, candidate.sizes), names)
        assert names and {name: values.get(name, UNKNOWN).shape for name in names} == {
            n: a.shape for n, a in found.items()
        }


def test_feeds_are_made_consistent():
    decoding = decoding_of(graph("merged"))
    feeds = {
        "past_key_values.0.key": np.zeros((1, 2, 3, 16)),
        "attention_mask": np.zeros((1, 5), np.int64),
        "position_ids": np.zeros((1, 2), np.int64),
        "use_cache_branch": np.array([False]),
    }
    found = consistent(decoding, feeds)
    assert found["position_ids"].tolist() == [[3, 4]] and found["use_cache_branch"].tolist() == [True]
    assert found["attention_mask"].tolist() == [[1] * 5]
    assert not consistent(decoding, feeds, whole=False)["attention_mask"].any(), "spelled-out attention takes any mask"
    assert consistent(decoding_of(graph("separate")), feeds, whole=False)["attention_mask"].all()


def test_a_form_without_a_cache_is_none():
    plain = decoder(Form(attention="spelled", rotary="none", norm="layer"))
    del plain.graph.output[1:]
    assert decoding_of(Graph(plain)) == NO_DECODER
