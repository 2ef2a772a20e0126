"""Heads of keys and values go with their share of the cache: what clients feed becomes narrower, and nothing else changes."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.decoders import FORMS, Form, decoder, generated, token_rows

import onnxprune
from onnxprune.api import bench
from onnxprune.coupling.caches import KEY, cache_heads, called_like, narrow_cache, with_picks
from onnxprune.data import input_specs, open_dataset
from onnxprune.errors import ModelError, UsageError
from onnxprune.model.decoding import decoding_of
from onnxprune.model.graph import Graph
from onnxprune.model.model import Model
from onnxprune.model.runtime import session
from onnxprune.report.caches import cache_rows, cache_sentence
from onnxprune.report.remedies import remedies

WIDE = Form(heads=8, keys=4)


def pruned(model, **options):
    return onnxprune.prune(model, criterion="l2", latency=False, cut_cache=True, **{"ratio": 0.4, **options})


def heads(model: onnx.ModelProto) -> dict[str, int]:
    values = [*model.graph.input, *model.graph.output]
    return {v.name: v.type.tensor_type.shape.dim[1].dim_value for v in values if v.name.startswith(("past", "present"))}


def scores(model: onnx.ModelProto, tokens: np.ndarray) -> np.ndarray:
    data = open_dataset({"input_ids": tokens}, input_specs(model), decoding=decoding_of(Graph(model)))
    run = session(model).run
    return np.concatenate([run(feeds)["logits"] for feeds in data.batches(len(tokens))])


@pytest.mark.parametrize("form", FORMS)
def test_a_narrower_cache_generates_what_the_whole_sequence_gives(form):
    found = pruned(decoder(FORMS[form]))
    assert found.report["surgery"]["exact"]
    before = 4 if FORMS[form].keys == 4 else 2
    assert set(heads(found.model).values()) == {before // 2}
    tokens = token_rows(FORMS[form], 2)
    steps, whole = generated(session(found.model).run, found.model, tokens, 0), scores(found.model, tokens)
    np.testing.assert_allclose(steps, whole, atol=2e-5 * float(np.abs(whole).max()))


def without_heads(model: onnx.ModelProto, kept: dict[int, list[int]], form: Form) -> onnx.ModelProto:
    """Return the model whose output projections read zeros where heads of keys go."""
    silent = onnx.ModelProto()
    silent.CopyFrom(model)
    width = form.heads // form.keys * form.head
    for tensor in silent.graph.initializer:
        for layer, stays in kept.items():
            if tensor.name == f"attn_{layer}.o.weight":
                weight = numpy_helper.to_array(tensor).copy().reshape(form.keys, width, -1)
                weight[[k for k in range(form.keys) if k not in stays]] = 0
                tensor.CopyFrom(numpy_helper.from_array(weight.reshape(-1, weight.shape[-1]), tensor.name))
    return silent


@pytest.mark.parametrize("attention", ["grouped", "spelled"])
def test_what_is_left_is_the_original_without_these_heads(attention):
    form = Form(heads=8, keys=4, attention=attention, rotary="nodes")
    model = decoder(form)
    found = pruned(model, include="attn_*", exclude="embed*", ratio=0.5, repair="none")
    kept = {layer: cache_heads(found.pruned)[f"past_key_values.{layer}.key"][1].tolist() for layer in (0, 1)}
    assert [len(stays) for stays in kept.values()] == [2, 2]
    tokens = token_rows(form, 3)
    want = generated(session(without_heads(model, kept, form)).run, model, tokens, 4)
    np.testing.assert_allclose(generated(session(found.model).run, found.model, tokens, 4), want, rtol=1e-4, atol=1e-4)


def test_the_report_says_what_clients_feed():
    report = pruned(decoder(WIDE), scope="layer").report
    assert cache_rows(report)[0] == ("past_key_values.0.key", "present.0.key", "4", "2", "? x 2 x ? x 16")
    assert report["attention_heads"] == [4]
    assert "num_key_value_heads 2, num_attention_heads 4" in cache_sentence(report)
    uneven = pruned(decoder(WIDE), layer_ratio={"attn_0.*": 0.25, "attn_1.*": 0.5}).report
    assert [row["heads_after"] for row in uneven["cache"]] == [3, 3, 2, 2]
    assert "2 to 3 by layer" in cache_sentence(uneven) and "--scope layer" in cache_sentence(uneven)
    assert "cache" not in onnxprune.prune(decoder(WIDE), ratio=0.4, criterion="l2", latency=False).report


def test_a_result_is_compared_with_the_original_on_whole_caches(tmp_path):
    model, rng = decoder(WIDE), np.random.default_rng(0)
    found = pruned(model)
    onnx.save(model, tmp_path / "whole.onnx")
    onnx.save(found.model, tmp_path / "narrow.onnx")
    rows = {"input_ids": token_rows(WIDE, 6, 1), "attention_mask": np.ones((6, 4), np.int64)}
    for layer in (0, 1):
        for part in ("key", "value"):
            rows[f"past_key_values.{layer}.{part}"] = rng.standard_normal((6, 4, 3, 16)).astype(np.float32)
    report = onnxprune.validate(tmp_path / "whole.onnx", tmp_path / "narrow.onnx", rows)
    kept = cache_heads(found.pruned)
    narrow = {name: value[:, kept[name][1]] if name in kept else value for name, value in rows.items()}
    want = [session(one).run(feeds)["logits"] for one, feeds in ((model, rows), (found.model, narrow))]
    error = np.linalg.norm(want[0] - want[1]) / np.linalg.norm(want[0])
    assert report["drift"]["outputs"]["logits"]["relative_l2"] == pytest.approx(error, rel=1e-5)
    assert report["drift"]["outputs"].keys() == {"logits"} and len(report["drift"]["fed_again"]) == 4
    timed = bench(tmp_path / "whole.onnx", tmp_path / "narrow.onnx", pairs=3, seconds=1)
    assert timed["latency"]["after"]["runs"] >= 1


def test_a_file_that_does_not_say_which_heads_it_has_is_refused():
    model = decoder(WIDE)
    small = pruned(model).model
    del small.metadata_props[:]
    with pytest.raises(ModelError, match="does not say which of them"):
        called_like(Model.of(small), Model.of(model))
    small.metadata_props.add(key=KEY, value=json.dumps({"past_key_values.0.key": {"heads": 4, "kept": [0, 9]}}))
    with pytest.raises(ModelError, match="does not say which of them"):
        called_like(Model.of(small), Model.of(model))
    assert called_like(Model.of(model), Model.of(model)).picked == ()


def test_several_kinds_and_a_plan(tmp_path):
    model = decoder(Form(heads=8, keys=4, layers=3))
    rows = {"input_ids": token_rows(WIDE, 16)}
    options = {"granularity": ("block", "heads"), "share": {"block": 0.3}, "target": "macs=60%"}
    found = pruned(model, ratio=None, calibration=rows, **options)
    assert found.report["surgery"]["exact"] and set(heads(found.model).values()) <= {1, 2, 3, 4}
    assert sum(heads(found.model).values()) < 4 * 12
    again = onnxprune.apply(found.plan, model, calibration=rows, latency=False)
    assert again.model.SerializeToString(deterministic=True) == found.model.SerializeToString(deterministic=True)


def test_a_narrow_cache_becomes_narrower_still():
    first = pruned(decoder(WIDE), include="attn_*", ratio=0.25)
    second = pruned(first.model, include="attn_*", ratio=0.34)
    assert set(heads(second.model).values()) == {2}
    one, two = (cache_heads(found.pruned)["past_key_values.0.key"] for found in (first, second))
    assert one[0] == two[0] == 4 and set(two[1]) < set(one[1])
    same = pruned(first.model, include="mlp_*")
    assert cache_heads(same.pruned).keys() == cache_heads(first.pruned).keys()
    np.testing.assert_array_equal(cache_heads(same.pruned)["past_key_values.0.key"][1], one[1])


def test_nothing_is_left_behind_where_no_head_goes():
    found = pruned(decoder(WIDE), include="mlp_*")
    assert set(heads(found.model).values()) == {4} and not cache_heads(found.pruned)
    assert not any("heads" in tensor.name for tensor in found.model.graph.initializer)
    model = Model.of(decoder(WIDE))
    picking = with_picks(model)
    assert len(picking.picked) == 4 and with_picks(picking) is picking and narrow_cache(model) is model
    assert narrow_cache(picking).structure.SerializeToString() == model.structure.SerializeToString()


def test_by_default_caches_keep_their_heads_and_the_way_out_is_told():
    analysis = onnxprune.analyze(decoder(WIDE))
    (barrier,) = {found.barrier for found in analysis.frozen if found.parameter == "attn_0.k.weight"}
    assert barrier.kind == "cache" and "--cut-cache" in remedies(analysis.facts)(barrier)


def test_other_models_have_none_to_cut():
    plain = decoder(Form(attention="spelled", rotary="none", norm="layer"))
    del plain.graph.output[1:]
    with pytest.raises(UsageError, match="has no cache"):
        pruned(plain)


@pytest.mark.parametrize("attention", ["grouped", "spelled"])
def test_attention_of_a_layer_goes_with_its_cache(attention, tmp_path):
    form = Form(attention=attention, rotary="nodes")
    model, rows = decoder(form), {"input_ids": token_rows(form, 8)}
    found = onnxprune.prune(
        model, granularity="block", include="attn_*", ratio=0.5, cut_cache=True, calibration=rows, latency=False
    )
    assert found.report["surgery"]["exact"]
    (gone,) = {row["input"].split(".")[1] for row in found.report["cache"] if row["shape_after"] is None}
    names = {v.name for v in [*found.model.graph.input, *found.model.graph.output]}
    assert not any(f".{gone}." in name for name in names) and len(heads(found.model)) == 4
    assert "2 went with their layers" in cache_sentence(found.report)
    silent = without_heads(model, {int(gone): []}, form)
    tokens = token_rows(form, 2, seed=5)
    want = generated(session(silent).run, model, tokens, 3)
    np.testing.assert_allclose(generated(session(found.model).run, found.model, tokens, 3), want, rtol=1e-4, atol=1e-4)
    onnx.save(found.model, tmp_path / "small.onnx")
    report = onnxprune.validate(model, tmp_path / "small.onnx", rows)
    assert report["task"]["agreement"]["score"] == pytest.approx(found.report["task"]["agreement"]["score"])


def test_without_the_option_attention_stays_where_its_cache_is_an_output():
    rows = {"input_ids": token_rows(WIDE, 8)}
    found = onnxprune.prune(decoder(WIDE), granularity="block", ratio=0.5, calibration=rows, latency=False)
    assert len(found.report["blocks"]) == 2 and len(heads(found.model)) == 8


def test_layers_and_heads_go_in_one_run():
    model = decoder(Form(heads=8, keys=4, layers=3))
    rows = {"input_ids": token_rows(WIDE, 16)}
    options = {"granularity": ("block", "heads"), "share": {"block": 0.5}, "target": "macs=50%", "include": "attn_*"}
    found = onnxprune.prune(
        model, cut_cache=True, calibration=rows, latency=False, exclude="embed*", **options | {"target": "macs=80%"}
    )
    left = {row["heads_after"] for row in found.report["cache"]}
    assert found.report["surgery"]["exact"] and 0 in left and left & {1, 2, 3}
    again = onnxprune.apply(found.plan, model, calibration=rows, latency=False)
    assert again.model.SerializeToString(deterministic=True) == found.model.SerializeToString(deterministic=True)
    twice = pruned(found.model, include="attn_*", ratio=0.3)
    assert {n for n, (_, kept) in cache_heads(twice.pruned).items() if not len(kept)} == {
        row["input"] for row in found.report["cache"] if row["heads_after"] == 0
    }
