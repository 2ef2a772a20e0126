"""Lines of text as data: numbers of the model's own tokenizer, masks and types, padded to one length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from support.networks import network
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

import onnxprune
from onnxprune.cli import main
from onnxprune.data import TextOptions, input_specs, open_dataset
from onnxprune.errors import DataError, UsageError

WORDS = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3, "a": 4, "cat": 5, "sat": 6, "down": 7}
BODY = (
    "e = Gather(%8x6, input_ids); m = Cast<to = 1>(attention_mask); u = Unsqueeze(m, @[2]); t = Cast<to = 1>(token_type_ids); "
    "v = Unsqueeze(t, @[2]); w = Add(u, v); h = Mul(e, w); p = MatMul(h, %6x16); r = Relu(p); y = MatMul(r, %16x5)"
)
INPUTS = "int64[N,{0}] input_ids, int64[N,{0}] attention_mask, int64[N,{0}] token_type_ids"


def model(length: str = "L") -> Any:
    return network(BODY, INPUTS.format(length), f"float[N,{length},5] y")


def tokenizer(folder: Path, padding: dict[str, Any] | None = None) -> Path:
    made = Tokenizer(WordLevel(WORDS, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    if padding is not None:
        made.enable_padding(**padding)
    made.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def lines(folder: Path, content: bytes = b"a cat\n\na cat sat down\r\nfoo\n") -> Path:
    (folder / "text.txt").write_bytes(content)
    return folder / "text.txt"


def feed(folder: Path, data: Path, tokens: str = "L", **options: Any) -> dict[str, np.ndarray]:
    text = TextOptions(folder / "tokenizer.json", **options)
    (found,) = open_dataset(data, input_specs(model(tokens)), text=text).batches(8)
    return dict(found)


def test_inputs_are_filled_by_their_names(tmp_path: Path) -> None:
    """Computed by hand from the table of words: [CLS] a cat [SEP], padded to the longest line."""
    tokenizer(tmp_path)
    found = feed(tmp_path, lines(tmp_path))
    np.testing.assert_array_equal(found["input_ids"], [[1, 4, 5, 2, 3, 3], [1, 4, 5, 6, 7, 2], [1, 0, 2, 3, 3, 3]])
    np.testing.assert_array_equal(found["attention_mask"], found["input_ids"] != 3)
    np.testing.assert_array_equal(found["token_type_ids"], np.zeros((3, 6), np.int64))
    assert {array.dtype for array in found.values()} == {np.dtype(np.int64)}


@pytest.mark.parametrize(
    ("length", "options", "tokens"), [("4", {}, 4), ("8", {}, 8), ("L", {"length": 3}, 3), ("L", {}, 6)]
)
def test_rows_have_the_length_of_the_model_or_the_option(
    length: str, options: Any, tokens: int, tmp_path: Path
) -> None:
    tokenizer(tmp_path)
    found = feed(tmp_path, lines(tmp_path), length, **options)
    assert {array.shape for array in found.values()} == {(3, tokens)}
    assert (found["input_ids"][1, :2] == [1, 4]).all()
    assert found["input_ids"][1, min(tokens, 6) - 1] == 2  # cut to length, a line still ends


def test_padding_is_that_of_the_tokenizer(tmp_path: Path) -> None:
    tokenizer(tmp_path, {"pad_id": 7, "pad_token": "down", "pad_type_id": 1})
    found = feed(tmp_path, lines(tmp_path))
    assert found["input_ids"][0].tolist() == [1, 4, 5, 2, 7, 7]
    assert found["token_type_ids"][0].tolist() == [0, 0, 0, 0, 1, 1]


def test_chosen_lines_are_those_of_all(tmp_path: Path) -> None:
    tokenizer(tmp_path)
    words = ["a", "cat", "sat", "down"]
    data = lines(tmp_path, "\n".join(f"{words[n % 4]} {words[n // 4 % 4]}" for n in range(16)).encode())
    text = TextOptions(tmp_path / "tokenizer.json")
    chosen = open_dataset(data, input_specs(model()), text=text, samples=5, seed=1)
    everything = next(open_dataset(data, input_specs(model()), text=text).batches(16))
    for part in chosen.batches(2):
        np.testing.assert_array_equal(part["input_ids"], everything["input_ids"][part.rows])


def test_a_mark_of_the_byte_order_is_no_word(tmp_path: Path) -> None:
    tokenizer(tmp_path)
    found = feed(tmp_path, lines(tmp_path, "\ufeffa cat".encode()))
    assert found["input_ids"].tolist() == [[1, 4, 5, 2]]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    data = lines(tmp_path)
    with pytest.raises(DataError, match="say --tokenizer"):
        open_dataset(data, input_specs(model()))
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(DataError, match=r"tokenizer\.json is no tokenizer file"):
        feed(tmp_path, data)
    tokenizer(tmp_path)
    with pytest.raises(DataError, match=r"text\.txt is no text: byte 1 is zero"):
        feed(tmp_path, lines(tmp_path, b"a\0b"))
    with pytest.raises(DataError, match="no lines of text"):
        feed(tmp_path, lines(tmp_path, b"\n \r\n"))
    image = network("y = Conv(input_ids, %5x3x1x1)", "float[N,3,4,4] input_ids", "float[N,5,4,4] y")
    with pytest.raises(DataError, match=r"takes no line of text.*--input-value input_ids:1"):
        open_dataset(lines(tmp_path), input_specs(image), text=TextOptions(tmp_path / "tokenizer.json"))
    with pytest.raises(UsageError, match="--text-length 0"):
        TextOptions(tmp_path / "tokenizer.json", 0)


def test_the_command_line_and_files_read_text(tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "net.onnx")
    tokenizer(tmp_path)
    data = lines(tmp_path, b"a cat\na cat sat\ncat sat down\ndown\n" * 6)
    run = [str(tmp_path / "net.onnx"), "--calib", str(data), "--no-latency", "--dry-run"]
    (tmp_path / "config.toml").write_text(f'tokenizer = "{tmp_path}/tokenizer.json"\ntext-length = 8\n')
    option = ["--tokenizer", str(tmp_path / "tokenizer.json"), "--text-length", "8"]
    texts = [CliRunner().invoke(main, [*run, *more]) for more in (option, ["--config", str(tmp_path / "config.toml")])]
    assert [text.exit_code for text in texts] == [0, 0], texts[0].output
    assert (
        "costs at input_ids 1x8, attention_mask 1x8, token_type_ids 1x8, from the calibration rows" in texts[0].stdout
    )
    assert texts[0].stdout == texts[1].stdout
    alone = CliRunner().invoke(main, [*run, "--text-length", "8"])
    assert alone.exit_code == 2
    assert "say --tokenizer too" in alone.stderr
    kept = (tmp_path / "tokenizer.json").read_bytes()
    onto = CliRunner().invoke(main, [*run, *option, "--json", str(tmp_path / "tokenizer.json")])
    assert onto.exit_code == 2
    assert (tmp_path / "tokenizer.json").read_bytes() == kept


def test_python_reads_text(tmp_path: Path) -> None:
    text = TextOptions(tokenizer(tmp_path))
    data = lines(tmp_path, b"a cat\na cat sat\ncat sat down\ndown\n" * 6)
    assert onnxprune.prune(model(), ratio=0.5, round_to=1, calibration=data, text=text, latency=False).passed
