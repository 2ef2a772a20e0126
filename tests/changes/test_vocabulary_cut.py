"""``--vocabulary``: rows of embeddings and of heads go, what stays gives what it gave, under the numbers it had."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, numpy_helper
from support.networks import network
from tokenizers import Tokenizer
from tokenizers.models import Unigram, WordLevel
from tokenizers.pre_tokenizers import Whitespace

import onnxprune
from onnxprune.api import inspect, sweep
from onnxprune.changes.plan import from_json
from onnxprune.changes.vocabulary import space
from onnxprune.changes.vocabulary.surgery import TokenMap
from onnxprune.data import TextOptions
from onnxprune.errors import DataError, ModelError, PlanError, TargetError, UsageError

KEPT = np.array([3, 1, 7, 20, 39, 7])
IDS = np.unique(KEPT)
BATCH = np.array([[1, 3, 39, 7], [20, 20, 1, 3]])
LAYER = "h = MatMul(s, %6x6); r = Relu(h)"
TIED = f"emb = %40x6; s = Gather(emb, ids); {LAYER}; w = Transpose<perm=[1,0]>(emb); logits = MatMul(r, w)"
HEADS = {
    "tied": TIED,
    "tied in a Gemm": f"emb = %40x6; e = Gather(emb, ids); s = Reshape(e, @[-1, 6]); {LAYER}; b = %40; logits = Gemm<transB=1>(r, emb, b)",
    "untied, biased, scaled": f"emb = %40x6; s = Gather(emb, ids); {LAYER}; hw = %6x40; b = %40; "
    "m = MatMul(r, hw); a = Add(m, b); d = Div(a, @30.); t = Tanh(d); logits = Mul(t, @30.)",
    "of the last position": f"emb = %40x6; s = Gather(emb, ids); {LAYER}; hw = %6x40; m = MatMul(r, hw); logits = Gather<axis=1>(m, @-1)",
    "behind a Cast": f"emb = %40x6; i = Cast<to=6>(ids); s = Gather(emb, i); {LAYER}; hw = %6x40; logits = MatMul(r, hw)",
}


def language(body: str = TIED, inputs: str = "int64[N,L] ids", outputs: str = "float[] logits") -> ModelProto:
    return network(body, inputs, outputs)


@pytest.fixture
def keep(tmp_path: Path) -> str:
    np.save(tmp_path / "keep.npy", KEPT)
    return str(tmp_path / "keep.npy")


def run(model: ModelProto | Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, feeds)


def cut(model: ModelProto, keep: str, **options: Any) -> onnxprune.Result:
    return onnxprune.prune(model, vocabulary=keep, **{"latency": False, **options})


@pytest.mark.parametrize("body", HEADS.values(), ids=HEADS)
def test_scores_of_tokens_that_stay_are_the_original_s(body: str, keep: str) -> None:
    model = language(body)
    found = cut(model, keep)
    (have,), (want,) = run(found.model, {"ids": BATCH}), run(model, {"ids": BATCH})
    np.testing.assert_allclose(have, want[..., IDS], rtol=1e-6)
    assert found.report["surgery"]["proven"] and [step["kind"] for step in found.report["steps"]] == ["vocabulary"]
    for row in found.report["vocabulary"]:
        assert (row["status"], row["rows_before"], row["rows_after"]) == ("cut", 40, 5)
    sizes = {tuple(tensor.dims) for tensor in found.model.graph.initializer if len(tensor.dims) == 2}
    assert (40, 6) not in sizes and (6, 40) not in sizes
    assert found.report["after"]["parameters"] < found.report["before"]["parameters"]
    assert 0 < found.report["after"]["macs"] < found.report["before"]["macs"]
    assert found.model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value == 5
    assert any("logits of the result" in warning for warning in found.report["warnings"])


def test_tied_tensors_are_stored_once(keep: str) -> None:
    found = cut(language(), keep)
    assert [row["tied"] for row in found.report["vocabulary"]] == [True]
    assert sum(tuple(tensor.dims) == (5, 6) for tensor in found.model.graph.initializer) == 1


def test_what_a_file_says_of_itself_is_not_believed(keep: str) -> None:
    """A key of the metadata tells later steps of a run which table numbers tokens; one that a file brings along names nothing."""
    model = language()
    for key in ("onnxprune.new_numbers", "author"):
        model.metadata_props.add(key=key, value="emb")
    found = cut(model, keep)
    assert {entry.key for entry in found.model.metadata_props if not entry.key.startswith("onnxprune")} == {"author"}
    assert "onnxprune.new_numbers" not in {entry.key for entry in found.model.metadata_props}
    np.testing.assert_allclose(run(found.model, {"ids": BATCH})[0], run(model, {"ids": BATCH})[0][..., IDS], rtol=1e-6)


def test_tokens_that_went_are_refused_not_taken_for_others(keep: str) -> None:
    small = cut(language(), keep).model
    with pytest.raises(Exception, match="out of data bounds"):
        run(small, {"ids": BATCH + 1})


def test_an_encoder_takes_and_gives_what_it_did(keep: str, tmp_path: Path) -> None:
    """Two tables of one input; positions and types, one of them as long as the vocabulary, stay."""
    model = language(
        "emb = %40x6; bias = %40x1; pos = %40x6; typ = %2x6; e = Gather(emb, ids); o = Gather(bias, ids); q = Gather(pos, position_ids); "
        "t = Gather(typ, token_type_ids); a = Add(e, o); c = Add(a, q); s = Add(c, t); "
        + LAYER
        + "; y = MatMul(r, %6x5)",
        "int64[N,L] ids, int64[N,L] position_ids, int64[N,L] token_type_ids",
        "float[N,L,5] y",
    )
    feeds = {"ids": BATCH, "position_ids": np.tile(np.arange(4), (2, 1)), "token_type_ids": np.ones_like(BATCH)}
    found = cut(model, keep, output=tmp_path / "small.onnx")
    np.testing.assert_array_equal(run(tmp_path / "small.onnx", feeds)[0], run(model, feeds)[0])
    rows = {row["name"]: (row["status"], row["rows_after"]) for row in found.report["vocabulary"]}
    assert rows == {"emb": ("cut", 5), "bias": ("cut", 5), "pos": ("kept", 40), "typ": ("kept", 2)}
    reasons = {row["name"]: row["reason"] for row in found.report["vocabulary"]}
    assert "position_ids, whose numbers are not of tokens" in reasons["pos"]
    assert not found.report["warnings"] or not any("of the result has" in w for w in found.report["warnings"])


def test_comparisons_with_tokens_hold(keep: str) -> None:
    """A mask made of the numbers themselves (pad, end) is what it was: nothing but the tables sees new numbers."""
    model = language(
        f"emb = %40x6; e = Gather(emb, ids); q = Equal(ids, @39); n = Not(q); m = Cast<to=1>(n); u = Unsqueeze(m, @[2]); s = Mul(e, u); {LAYER}; "
        "y = MatMul(r, %6x5)",
        outputs="float[N,L,5] y",
    )
    np.testing.assert_array_equal(run(cut(model, keep).model, {"ids": BATCH})[0], run(model, {"ids": BATCH})[0])


def test_the_map_is_written_beside_the_model(keep: str, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    found = cut(language(), keep, output=out).report["vocabulary_map"]
    with np.load(found["path"]) as stored:
        assert found["path"] == f"{out}.vocabulary.npz"
        np.testing.assert_array_equal(stored["new_to_old"], IDS)
        np.testing.assert_array_equal(np.flatnonzero(stored["old_to_new"] >= 0), IDS)
        np.testing.assert_array_equal(stored["old_to_new"][IDS], np.arange(5))
    again = cut(language(), found["path"]).report["vocabulary_map"]  # a map names tokens itself
    assert again["ids_sha256"] == found["ids_sha256"]
    out.unlink()
    with pytest.raises(UsageError, match="force"):
        cut(language(), keep, output=out)
    assert not out.exists()


def test_a_wrong_map_is_refuted(keep: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = TokenMap.table
    monkeypatch.setattr(TokenMap, "table", lambda *given, **more: right(*given, **more)[::-1].copy())
    with pytest.raises(TargetError, match="not exact"):
        cut(language(), keep)


def test_wrong_columns_of_a_head_are_refuted(keep: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = space.narrowed

    def swapped(*given: Any) -> Any:
        found = whole(*given)
        return found.replaced({"hw": np.ascontiguousarray(np.asarray(found.weights["hw"].read())[:, ::-1])})

    monkeypatch.setattr(space, "narrowed", swapped)
    with pytest.raises(TargetError, match="not exact"):
        cut(language(HEADS["untied, biased, scaled"]), keep)


@pytest.mark.parametrize("storage", ["plain", "auto"])
def test_a_plan_gives_the_same_bytes(keep: str, storage: str, tmp_path: Path) -> None:
    """Also of a run in which units go after the tokens, and without the file that named them."""
    model = language(HEADS["untied, biased, scaled"])
    onnx.save(model, tmp_path / "model.onnx")
    for name, options in (("alone", {}), ("both", {"ratio": 0.5})):
        first = cut(tmp_path / "model.onnx", keep, storage=storage, output=tmp_path / f"{name}.onnx", **options)  # type: ignore[arg-type]
        assert ("units" in [step["kind"] for step in first.report["steps"]]) == bool(options)
        (have,) = run(tmp_path / f"{name}.onnx", {"ids": BATCH})
        assert have.shape == (2, 4, 5)
        plan = from_json(first.plan.to_json())
        onnxprune.apply(plan, tmp_path / "model.onnx", latency=False, output=tmp_path / "again.onnx", force=True)
        for suffix in ("", ".vocabulary.npz"):
            files = [tmp_path / f"{stem}.onnx{suffix}" for stem in (name, "again")]
            assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("bits", "eJwDAAAAAAE=", "not those that its digest is of"),
        ("bits", "????", "cannot be read"),
        ("of", 41, "41 tokens, the model has 40"),
        ("stand_in", 0, "not those"),
        ("count", None, "need the entries"),
        ("numbers", "odd", "no numbers 'odd'"),
        ("", [["emb"]], "list of names"),
    ],
)
def test_a_damaged_plan_is_refused(keep: str, entry: str, value: Any, message: str) -> None:
    model = language()
    text = json.loads(cut(model, keep).plan.to_json())
    step = text["steps"][0]
    step["tokens"][entry] = value
    step["vocabulary"] = step["vocabulary"] if entry else value
    with pytest.raises(PlanError, match=message):
        onnxprune.apply(from_json(json.dumps(text)), model, latency=False)


def test_data_is_compared_on_the_tokens_that_stay(keep: str) -> None:
    """Tokens of calibration rows stay too; those of evaluation rows that went are counted. Repair and drift see equal outputs."""
    draw = np.random.default_rng(0)
    calibration = {"ids": draw.choice([*IDS, 11], (24, 4))}
    found = cut(language(), keep, calibration=calibration, evaluation={"ids": draw.choice([*IDS, 11], (24, 4))})
    assert found.report["vocabulary_map"]["calibration"] == 1 and found.report["vocabulary_map"]["tokens_after"] == 6
    assert any("1 tokens that vocabulary does not name" in warning for warning in found.report["warnings"])
    assert found.report["drift"]["outputs"]["logits"]["max_abs"] < 1e-5
    other = cut(language(), keep, evaluation={"ids": draw.integers(0, 40, (24, 4))}).report
    assert other["vocabulary_map"]["evaluation"]["of"] == 96 and other["vocabulary_map"]["evaluation"]["unknown"] > 40
    assert any("not in the vocabulary that stays" in warning for warning in other["warnings"])
    both = cut(language(HEADS["untied, biased, scaled"]), keep, ratio=0.5, calibration=calibration)
    assert [step["kind"] for step in both.report["steps"]] == ["vocabulary", "units"]
    assert both.model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value == 6


WORDS = ["[UNK]", "[PAD]", "a", "cat", "sat", *(f"w{n}" for n in range(35))]


@pytest.fixture
def tokenizer(tmp_path: Path) -> TextOptions:
    made = Tokenizer(WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.add_special_tokens(["[PAD]"])
    made.save(str(tmp_path / "tokenizer.json"))
    return TextOptions(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("text", "kind", "ids"),
    [
        ("3\n7\n\n7\n", "numbers", [0, 1, 3, 7]),
        ("cat\nw30\n", "tokens", [0, 1, 3, 35]),
        ("a cat sat\nthe cat\n", "corpus", [0, 1, 2, 3, 4]),
    ],
)
def test_a_text_file_names_tokens(text: str, kind: str, ids: list[int], tokenizer: TextOptions, tmp_path: Path) -> None:
    """With a tokenizer special tokens stay too, and what it does not know is what takes the place of tokens that went."""
    (tmp_path / "keep.txt").write_text(text)
    found = cut(language(), str(tmp_path / "keep.txt"), text=tokenizer, output=tmp_path / "small.onnx")
    assert found.report["vocabulary_map"]["from"] == kind
    with np.load(tmp_path / "small.onnx.vocabulary.npz") as stored:
        assert stored["new_to_old"].tolist() == ids
    unknown = run(tmp_path / "small.onnx", {"ids": np.zeros((1, 3), np.int64)})[0]
    gone = run(tmp_path / "small.onnx", {"ids": np.full((1, 3), 39, np.int64)})[0]
    np.testing.assert_array_equal(unknown, gone)


NOT_CUT = {
    "softmax": (TIED.replace("logits", "z") + "; logits = Softmax(z)", "reads the scores of all tokens together"),
    "read elsewhere": (TIED + "; other = Mul(emb, @2.)", "is no head that scores tokens"),
    "no table": ("h = Cast<to=1>(ids); logits = MatMul(h, %4x40)", "no Gather of one"),
    "chosen by a Where": (
        f"emb = %40x6; c = Less(ids, @5); i = Where(c, ids, @5); s = Gather(emb, i); {LAYER}; logits = MatMul(r, %6x40)",
        "its rows are looked up by numbers that Where 'i' computes",
    ),
}


@pytest.mark.parametrize("name", NOT_CUT)
def test_what_cannot_be_cut_says_why(name: str, keep: str) -> None:
    body, reason = NOT_CUT[name]
    outputs = "float[] logits" + (", float[] other" if "other" in body else "")
    inputs = "int64[N,4] ids" if name == "no table" else "int64[N,L] ids"
    with pytest.raises(ModelError, match="vocabulary needs a stored table") as caught:
        cut(language(body, inputs, outputs), keep)
    assert reason in str(caught.value)


def test_an_output_over_all_tokens_keeps_an_untied_head_whole(keep: str) -> None:
    model = language(f"emb = %40x6; s = Gather(emb, ids); {LAYER}; hw = %6x40; z = MatMul(r, hw); logits = Softmax(z)")
    found = cut(model, keep)
    rows = {row["name"]: row for row in found.report["vocabulary"]}
    assert rows["emb"]["status"] == "cut" and rows["hw"]["status"] == "kept"
    assert "Softmax" in rows["hw"]["reason"]
    np.testing.assert_allclose(run(found.model, {"ids": BATCH})[0], run(model, {"ids": BATCH})[0], rtol=1e-6)


def _saved(write: Callable[[Path], Any]) -> Callable[[Path], str]:
    def path(folder: Path) -> str:
        write(folder)
        return str(next(folder.glob("v.*")))

    return path


REFUSED: dict[str, tuple[Callable[[Path], str], type[Exception], str]] = {
    "too large": (_saved(lambda f: np.save(f / "v.npy", [3, 40])), UsageError, "names token 40"),
    "negative": (_saved(lambda f: np.save(f / "v.npy", [-1, 3])), DataError, "begin with 0"),
    "none": (_saved(lambda f: np.save(f / "v.npy", np.empty(0, int))), DataError, "names no token"),
    "floats": (_saved(lambda f: np.save(f / "v.npy", [0.5])), DataError, "float64"),
    "pickled": (_saved(lambda f: np.save(f / "v.npy", np.array([{}]), allow_pickle=True)), DataError, "cannot be read"),
    "several": (_saved(lambda f: np.savez(f / "v.npz", a=[1], b=[2])), DataError, "name the array"),
    "text": (_saved(lambda f: (f / "v.txt").write_text("a cat\n")), DataError, "--tokenizer"),
    "empty": (_saved(lambda f: (f / "v.txt").write_text("\n")), DataError, "names no token"),
    "binary": (_saved(lambda f: (f / "v.txt").write_bytes(b"1\0")), DataError, "no text"),
    "a folder": (lambda folder: str(folder), DataError, "folder"),
    "nothing": (lambda folder: str(folder / "v.npy"), DataError, "no such file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_name_no_tokens_are_refused(name: str, tmp_path: Path) -> None:
    path, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        cut(language(), path(tmp_path))


def test_rewinding_needs_the_whole_vocabulary(keep: str) -> None:
    with pytest.raises(UsageError, match="rewind"):
        cut(language(), keep, rewind=language())


def test_constants_in_nodes_are_cut_too(keep: str) -> None:
    model = language()
    for tensor in [t for t in model.graph.initializer if t.name == "emb"]:
        node = onnx.helper.make_node(
            "Constant", [], ["emb"], value=numpy_helper.from_array(numpy_helper.to_array(tensor))
        )
        model.graph.initializer.remove(tensor)
        model.graph.node.insert(0, node)
    np.testing.assert_allclose(
        run(cut(model, keep).model, {"ids": BATCH})[0], run(model, {"ids": BATCH})[0][..., IDS], rtol=1e-6
    )


def test_the_unknown_token_of_a_unigram_tokenizer_is_found(tmp_path: Path) -> None:
    made = Tokenizer(Unigram([("a", -1.0), ("<unk>", 0.0), ("b", -2.0)], unk_id=1))
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "keep.txt").write_text("a b\n")
    found = cut(language(), str(tmp_path / "keep.txt"), text=TextOptions(tmp_path / "tokenizer.json"))
    assert found.report["vocabulary_map"]["stand_in"] == 1


def test_labels_of_scores_are_refused(keep: str) -> None:
    """They number all tokens, the outputs that are compared have those that stay; without them, or where no output changes, a run goes on."""
    rows = {"ids": np.random.default_rng(0).choice(IDS, (24, 4))}
    last = language(HEADS["of the last position"])
    with pytest.raises(UsageError, match="leave labels out"):
        cut(last, keep, evaluation=rows, labels=rows["ids"][:, 0])
    onnx.checker.check_model(cut(last, keep, evaluation=rows).model)
    encoder = language(
        f"emb = %40x6; s = Gather(emb, ids); {LAYER}; m = ReduceMean<keepdims=0>(r, @[1]); y = MatMul(m, %6x5)",
        outputs="float[N,5] y",
    )
    found = cut(encoder, keep, evaluation=rows, labels=rows["ids"][:, 0] % 5).report
    assert found["task"]["before"] == found["task"]["after"]


def test_training_learns_from_the_scores_of_tokens_that_stay(keep: str) -> None:
    rows = {"ids": np.random.default_rng(0).choice(IDS, (32, 4))}
    found = cut(language(HEADS["untied, biased, scaled"]), keep, ratio=0.5, calibration=rows, criterion="l2", recover=2)
    assert found.report["recover"]["steps"] == 2
    assert run(found.model, {"ids": BATCH})[0].shape == (2, 4, 5)


def test_tables_of_two_inputs_that_are_as_long_are_told_of(keep: str) -> None:
    model = language(
        f"emb = %40x6; other = %40x6; e = Gather(emb, ids); o = Gather(other, decoder_ids); s = Add(e, o); {LAYER}; y = MatMul(r, %6x5)",
        "int64[N,L] ids, int64[N,L] decoder_ids",
        "float[N,L,5] y",
    )
    found = cut(model, keep)
    feeds = {"ids": BATCH, "decoder_ids": BATCH[::-1].copy()}
    np.testing.assert_array_equal(run(found.model, feeds)[0], run(model, feeds)[0])
    assert any("decoder_ids, ids look up are as long" in warning for warning in found.report["warnings"])


def test_a_sweep_goes_on_from_the_tokens_that_stay(tokenizer: TextOptions, tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_text("a cat sat\n")
    rows = {"ids": np.random.default_rng(0).integers(0, 5, (24, 4))}
    options: dict[str, Any] = {"vocabulary": str(tmp_path / "keep.txt"), "text": tokenizer, "calibration": rows}
    model = language(HEADS["untied, biased, scaled"])
    found = sweep(model, ratios=(0.5,), criteria=("l2",), repairs=("none",), **options)
    (point,) = found["points"]
    assert point["error"] is None and point["settings"]["ratio"] == 0.5
    assert point["parameters"] < 0.6 * inspect(model)["before"]["parameters"]
