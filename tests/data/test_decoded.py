"""Token numbers alone are data for a decoder with a cache."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from support.decoders import FORMS, Form, decoder, token_rows

import onnxprune
from onnxprune.data import input_specs, open_dataset
from onnxprune.errors import DataError, OnnxPruneError
from onnxprune.model.decoding import decoding_of
from onnxprune.model.graph import Graph

TOKENS = token_rows(Form(), 6)


def dataset(form: str, data, **options):
    model = decoder(FORMS[form])
    return open_dataset(data, input_specs(model), decoding=decoding_of(Graph(model)), **options)


@pytest.mark.parametrize("form", FORMS)
def test_tokens_are_enough_and_the_model_runs_on_them(form):
    from onnxprune.model.runtime import session

    found = dataset(form, {"input_ids": TOKENS})
    feed = next(iter(found.batches(3)))
    assert session(decoder(FORMS[form])).run(feed)["logits"].shape[-2:] == (10, 50)
    assert feed["past_key_values.1.value"].shape[2] == 0 and feed["attention_mask"].all()
    assert not FORMS[form].merged or feed["use_cache_branch"].tolist() == [False]
    assert len(found) == 6 and found.schema.samples != FORMS[form].merged


def test_a_mask_that_is_given_counts_places():
    mask = np.ones_like(TOKENS)
    mask[0, :4] = 0
    found = dataset("spelled out", {"input_ids": TOKENS, "attention_mask": mask})
    feed = next(iter(found.batches(6)))
    assert feed["position_ids"][0].tolist() == [0, 0, 0, 0, 0, 1, 2, 3, 4, 5]
    assert feed["position_ids"][1].tolist() == list(range(10))


def test_attention_that_counts_keys_has_padding_moved_to_the_right(caplog):
    mask = np.ones_like(TOKENS)
    mask[0, :4] = 0
    mask[1, 7:] = 0
    with caplog.at_level(logging.WARNING):
        feed = next(iter(dataset("separate", {"input_ids": TOKENS, "attention_mask": mask}).batches(6)))
    assert feed["input_ids"][0].tolist() == [*TOKENS[0, 4:], *TOKENS[0, :4]]
    assert feed["attention_mask"][0].tolist() == [1] * 6 + [0] * 4
    np.testing.assert_array_equal(feed["input_ids"][1:], TOKENS[1:])
    assert "moved to the right" in caplog.text


def test_rows_of_several_lengths():
    rows = [{"input_ids": TOKENS[:2, :7]}, {"input_ids": TOKENS[2:5]}]
    found = dataset("rotary nodes", rows)
    shapes = [(feed["input_ids"].shape, feed["position_ids"].shape) for feed in found.batches(4)]
    assert shapes == [((2, 7), (2, 7)), ((3, 10), (3, 10))]


def test_whole_rows_are_taken_as_they_are():
    past = np.ones((6, 2, 3, 16), np.float32)
    rows = {"input_ids": TOKENS[:, :1], "attention_mask": np.ones((6, 4), np.int64)}
    rows |= {f"past_key_values.{layer}.{part}": past for layer in (0, 1) for part in ("key", "value")}
    feed = next(iter(dataset("separate", rows).batches(6)))
    np.testing.assert_array_equal(feed["past_key_values.0.key"], past)


def test_a_cache_of_unknown_width_is_told():
    model = decoder(Form(attention="spelled", rotary="none", open_width=True))
    with pytest.raises(DataError, match="how many heads it has and how wide they are"):
        open_dataset({"input_ids": TOKENS}, input_specs(model), decoding=decoding_of(Graph(model)))


def test_a_run_on_tokens_alone(tmp_path):
    np.savez(tmp_path / "ids.npz", input_ids=token_rows(Form(), 16))
    found = onnxprune.prune(decoder(), ratio=0.3, calibration=tmp_path / "ids.npz", latency=False).report
    assert found["surgery"]["exact"] and found["drift"]["samples"] == 16
    again = onnxprune.validate(decoder(), decoder(seed=1), tmp_path / "ids.npz")
    assert again["drift"]["samples"] == 16


def test_an_iterator_that_is_read_once_may_bring_its_mask():
    rows = ({"input_ids": TOKENS[:3], "attention_mask": np.ones_like(TOKENS[:3])} for _ in range(2))
    assert len(dataset("spelled out", rows)) == 6


def test_a_cache_of_three_heads_is_no_picture():
    from onnxprune.recover.augment import image_axes

    model = decoder(Form(heads=3, keys=3))
    found = open_dataset({"input_ids": TOKENS}, input_specs(model), decoding=decoding_of(Graph(model)))
    assert [spec.name for spec in found.schema.fresh] == ["input_ids", "attention_mask"]
    assert image_axes(found.specs) and not image_axes(found.schema.fresh)


def test_text_with_a_tokenizer_is_data_too(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    from onnxprune.data.texts import TextOptions

    words = {word: number for number, word in enumerate(["<pad>", "a", "b", "c", "d"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "lines.txt").write_text("a b c d a b\nb c d\nd c b a\n" * 4)
    options = TextOptions(tmp_path / "tokenizer.json")
    feed = next(iter(dataset("separate", tmp_path / "lines.txt", text=options).batches(3)))
    assert feed["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0]]
    assert feed["past_key_values.0.key"].shape == (3, 2, 0, 16) and feed["input_ids"][1].tolist() == [2, 3, 4, 0, 0, 0]
    found = onnxprune.prune(
        decoder(), ratio=0.3, criterion="wanda", calibration=tmp_path / "lines.txt", text=options, latency=False
    )
    assert found.report["task"]["agreement"]["perplexity"]["tokens"] == 4 * (5 + 2 + 3)


def test_a_loader_gives_rows_of_several_lengths(tmp_path):
    path = tmp_path / "rows.py"
    path.write_text(
        "import numpy as np\n"
        "def load_data():\n"
        "    for length in (5, 9, 9, 12):\n"
        "        yield {'input_ids': np.arange(2 * length).reshape(2, length) % 50}\n"
    )
    found = onnxprune.prune(decoder(), ratio=0.3, calibration=path, latency=False)
    assert found.report["surgery"]["exact"] and found.report["drift"]["samples"] == 8
    assert found.report["task"]["agreement"]["perplexity"]["tokens"] == 2 * (4 + 8 + 8 + 11)


def test_half_precision_that_overflows_is_told():
    model = decoder(FORMS["half precision"])
    for tensor in model.graph.initializer:
        if tensor.name == "mlp_1.up.weight":
            array = np.frombuffer(tensor.raw_data, np.float16) * np.float16(3e4)
            tensor.raw_data = array.astype(np.float16).tobytes()
    with pytest.raises(OnnxPruneError, match=r"NaN|Inf|finite"):
        onnxprune.prune(model, ratio=0.3, criterion="wanda", calibration={"input_ids": TOKENS}, latency=False)


def test_a_cache_that_holds_its_window_alone_keeps_its_length():
    model = decoder(Form(heads=8, keys=4, sliding=True, window=8))
    decoding = decoding_of(Graph(model))
    assert [state.window for state in decoding.caches] == [8, 8, 0, 0]
    found = open_dataset({"input_ids": TOKENS}, input_specs(model), decoding=decoding)
    feed = next(iter(found.batches(1)))
    assert [feed[f"past_key_values.{layer}.key"].shape[2] for layer in (0, 1)] == [8, 0]
    result = onnxprune.prune(model, ratio=0.4, cut_cache=True, calibration={"input_ids": TOKENS}, latency=False)
    assert result.report["surgery"]["exact"] and {row["heads_after"] for row in result.report["cache"]} <= {1, 2, 3}
    assert np.isfinite(result.report["task"]["agreement"]["perplexity"]["after"])
