"""Language models are judged by the token that comes next, and by how well it was told."""

from __future__ import annotations

import numpy as np
import pytest
from support.decoders import FORMS, Form, decoder, token_rows
from support.networks import network

import onnxprune
from onnxprune.measure.tasks.language import perplexity
from onnxprune.model.runtime import session
from onnxprune.report.entries import comparison
from onnxprune.report.tasks import task_sentence

TOKENS = token_rows(Form(), 24)


def judged(form: str = "spelled out", rows=None, **options) -> dict:
    model = decoder(FORMS[form])
    return onnxprune.validate(
        model, decoder(FORMS[form], seed=1), {"input_ids": TOKENS} if rows is None else rows, **options
    )


def by_hand(model, tokens: np.ndarray, mask: np.ndarray) -> float:
    """The perplexity of the spelled-out decoder over rows with a mask."""
    past = {
        v.name: np.zeros((len(tokens), 2, 0, 16), np.float32) for v in model.graph.input if v.name.startswith("past")
    }
    places = np.maximum(mask.cumsum(1) - 1, 0)
    feeds = {"input_ids": tokens, "attention_mask": mask, "position_ids": places, **past}
    scores = session(model).run(feeds)["logits"].astype(np.float64)
    losses = np.log(np.exp(scores).sum(-1)) - np.take_along_axis(scores, np.roll(tokens, -1, 1)[..., None], -1)[..., 0]
    there = (mask[:, 1:] * mask[:, :-1]).astype(bool)
    return float(np.exp(losses[:, :-1][there].mean()))


def test_agreement_and_perplexity_are_those_of_hand():
    report = judged()
    agreement = report["task"]["agreement"]
    assert (agreement["kind"], agreement["figure"], agreement["found"]) == ("tokens", "same next token", "outputs")
    models = [decoder(FORMS["spelled out"], seed) for seed in (0, 1)]
    want = [by_hand(model, TOKENS, np.ones_like(TOKENS)) for model in models]
    found = agreement["perplexity"]
    assert [found["before"], found["after"]] == pytest.approx(want, rel=1e-5) and found["tokens"] == 24 * 9
    assert found["interval"][0] < found["ratio"] < found["interval"][1]
    assert "perplexity" in task_sentence(report) and ("perplexity" in dict((row[0], row) for row in comparison(report)))


def test_padding_counts_for_nothing():
    mask = np.ones_like(TOKENS)
    mask[:8, 6:] = 0
    mask[8:12, :3] = 0
    report = judged(rows={"input_ids": TOKENS, "attention_mask": mask})
    want = by_hand(decoder(FORMS["spelled out"]), TOKENS, mask)
    found = report["task"]["agreement"]["perplexity"]
    assert found["before"] == pytest.approx(want, rel=1e-5) and found["tokens"] == 24 * 9 - 8 * 4 - 4 * 3


def test_a_gate_goes_by_the_next_token():
    report = judged(max_drop=0.5)
    (gate,) = report["gates"]
    assert gate["value"] == pytest.approx(1 - report["task"]["agreement"]["score"]) and not gate["passed"]


def test_whole_feeds_are_judged_too():
    assert judged("merged")["task"]["agreement"]["perplexity"]["tokens"] == 24 * 9


def test_what_looks_at_later_tokens_is_no_language_model():
    text = "t = %50x8; e = Gather(t, ids); m = ReduceMean<axes = [1], keepdims = 1>(e); s = Add(e, m); w = %8x50; y = MatMul(s, w)"
    model = network(text, "int64[n,s] ids", "float[n,s,50] y", opset=13)
    report = onnxprune.validate(model, model, {"ids": TOKENS})
    assert (report["task"] or {}).get("agreement", {}).get("kind") != "tokens"


def test_losses_without_end_are_told_as_none():
    assert perplexity(np.array([[1.0, 2.0, np.inf], [1.0, 2.0, 3.0]]))["after"] is None
    assert perplexity(np.zeros((2, 3))) is None


def test_a_model_agrees_with_itself_and_less_the_more_it_is_damaged():
    def damaged(by: float):
        model = decoder(FORMS["spelled out"])
        for tensor in model.graph.initializer:
            if tensor.name == "mlp_1.down.weight":
                array = np.frombuffer(tensor.raw_data, np.float32)
                tensor.raw_data = (
                    (array + by * np.random.default_rng(0).standard_normal(array.shape)).astype(np.float32).tobytes()
                )
        report = onnxprune.validate(decoder(FORMS["spelled out"]), model, {"input_ids": TOKENS})
        return report["task"]["agreement"]

    same, little, much = (damaged(by) for by in (0.0, 0.05, 2.0))
    assert same["score"] == 1 and same["perplexity"]["ratio"] == pytest.approx(1)
    assert 1 >= little["score"] > much["score"] >= 0
