"""Recordings as data: PCM of every width, resampled, in windows, for inputs of every form."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from scipy.signal import resample_poly
from support.networks import network

import onnxprune
from onnxprune.cli import main
from onnxprune.data import AudioOptions, input_specs, open_dataset
from onnxprune.errors import DataError, UsageError

BODY = "c = Conv<strides = [16]>({}, %16x1x32); r = Relu(c); e = Conv(r, %5x16x1); g = GlobalAveragePool(e); y = Flatten(g)"
FORMS = {
    "[N, L]": ("float[N,64] x", "u = Unsqueeze(x, @[1]); " + BODY.format("u"), (64,)),
    "[N, 1, L]": ("float[N,1,64] x", BODY.format("x"), (1, 64)),
    "[N, L, 1]": ("float[N,64,1] x", "u = Transpose<perm = [0,2,1]>(x); " + BODY.format("u"), (64, 1)),
}
NETWORK = network(FORMS["[N, L]"][1], "float[N,64] x", "float[N,5] y")
OPEN = network(FORMS["[N, L]"][1], "float[N,L] x", "float[N,5] y")


def write(path: Path, samples: np.ndarray, rate: int = 8000, width: int = 2) -> Path:
    """Write samples in [-1, 1), of shape [frames] or [frames, channels], as PCM."""
    frames = samples if samples.ndim == 2 else samples[:, None]
    whole = np.rint(frames * (1 << (8 * width - 1))).astype(np.int64)
    raw = (whole + 128 if width == 1 else whole).astype("<i8").reshape(-1, 1).view(np.uint8)[:, :width].tobytes()
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(frames.shape[1])
        stream.setsampwidth(width)
        stream.setframerate(rate)
        stream.writeframes(raw)
    return path


def noise(count: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, count]).uniform(-0.9, 0.9, (count, channels))


def rows(data: Path, model: Any = NETWORK, **options: Any) -> list[np.ndarray]:
    found = open_dataset(data, input_specs(model), audio=AudioOptions(**options))
    return [row for feed in found.batches(4) for row in feed["x"]]


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_samples_are_as_written_whatever_their_width(width: int, channels: int, tmp_path: Path) -> None:
    samples = noise(64, channels)
    (found,) = rows(write(tmp_path / "a.wav", samples, width=width))
    np.testing.assert_allclose(found, samples.mean(axis=1), atol=0.6 / (1 << (8 * width - 1)) + 1e-7)


@pytest.mark.parametrize("name", FORMS)
def test_windows_have_the_form_of_the_input(name: str, tmp_path: Path) -> None:
    inputs, body, shape = FORMS[name]
    found = rows(write(tmp_path / "a.wav", noise(200)), network(body, inputs, "float[N,5] y"))
    assert [row.shape for row in found] == [shape] * 3


def test_windows_follow_one_another_in_file_order(tmp_path: Path) -> None:
    """Of 200 samples three windows of 64, by 32 five; what fills none is left out, a short recording is filled with zeros."""
    first, second = noise(200, seed=1), noise(40, seed=2)
    write(tmp_path / "take_2.wav", first)
    write(tmp_path / "take_10.wav", second)
    found = rows(tmp_path)
    assert len(found) == 4
    np.testing.assert_allclose(np.concatenate(found[:3]), first[:192, 0], atol=1e-4)
    np.testing.assert_allclose(found[3], np.pad(second[:, 0], (0, 24)), atol=1e-4)
    assert len(rows(tmp_path, hop=32)) == 6
    np.testing.assert_allclose(rows(tmp_path, hop=32)[3], first[96:160, 0], atol=1e-4)


def test_chosen_rows_are_those_of_all(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"{number}.wav", noise(64 * 5, seed=number))
    data = open_dataset(tmp_path, input_specs(NETWORK), samples=6, seed=3)
    everything = rows(tmp_path)
    numbers = [int(number) for feed in data.batches(4) for number in feed.rows]
    found = [row for feed in data.batches(4) for row in feed["x"]]
    assert len(numbers) == 6
    assert all(np.array_equal(found[place], everything[number]) for place, number in enumerate(numbers))


@pytest.mark.parametrize(("recorded", "wanted"), [(44100, 16000), (8000, 16000), (48000, 16000), (16000, 11025)])
def test_windows_are_those_of_the_whole_recording_resampled(recorded: int, wanted: int, tmp_path: Path) -> None:
    samples = noise(3000)
    path = write(tmp_path / "a.wav", samples, rate=recorded, width=4)
    whole = resample_poly(samples[:, 0], *np.array([wanted, recorded]) // np.gcd(wanted, recorded))
    found = rows(path, rate=wanted, hop=48)
    assert len(found) == (len(whole) - 64) // 48 + 1
    for number, row in enumerate(found):
        np.testing.assert_allclose(row, whole[48 * number : 48 * number + 64], atol=1e-6)


def test_without_a_size_every_recording_is_a_row(tmp_path: Path) -> None:
    for number, count in enumerate((100, 160, 130)):
        write(tmp_path / f"{number}.wav", noise(count))
    assert [row.shape for row in rows(tmp_path, OPEN)] == [(100,), (160,), (130,)]
    assert [row.shape for row in rows(tmp_path, OPEN, window=80)] == [(80,)] * 4
    found = onnxprune.prune(OPEN, ratio=0.5, round_to=1, calibration=tmp_path, latency=False)
    assert found.report["sizes"]["inputs"] == {"x": [1, 130]}
    given = open_dataset(tmp_path, input_specs(OPEN), sizes={"x": (1, 48)})
    assert {feed["x"].shape[1:] for feed in given.batches()} == {(48,)}


def test_a_model_of_one_recording_without_a_batch(tmp_path: Path) -> None:
    model = network("u = Unsqueeze(x, @[0, 1]); " + BODY.format("u"), "float[L] x", "float[1,5] y")
    write(tmp_path / "a.wav", noise(100))
    write(tmp_path / "b.wav", noise(90))
    assert [feed["x"].shape for feed in open_dataset(tmp_path, input_specs(model)).batches()] == [(100,), (90,)]


def test_whole_numbers_are_fed_as_recorded(tmp_path: Path) -> None:
    model = network("f = Cast<to = 1>(x); u = Unsqueeze(f, @[1]); " + BODY.format("u"), "int16[N,64] x", "float[N,5] y")
    samples = noise(64)
    (found,) = rows(write(tmp_path / "a.wav", samples), model)
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, np.rint(samples[:, 0] * 32768).astype(np.int16))
    (scaled,) = rows(tmp_path / "a.wav", scale=32768)
    np.testing.assert_array_equal(scaled, found.astype(np.float32))


def test_further_inputs_are_given_values(tmp_path: Path) -> None:
    """A voice detector: sound beside a state and a rate."""
    body = (
        f"h = Slice(state, @[0], @[1], @[0]); q = Squeeze(h, @[0]); k = Cast<to = 1>(sr); {FORMS['[N, L]'][1]}".replace(
            "y = Flatten(g)", "z = Flatten(g); a = Add(z, q); y = Mul(a, k)"
        )
    )
    model = network(body, "float[N,64] x, float[2,N,5] state, int64 sr", "float[N,5] y")
    write(tmp_path / "a.wav", noise(64 * 12))
    values = {"sr": 16000, "state": 0}
    found = onnxprune.prune(model, ratio=0.5, round_to=1, calibration=tmp_path, input_value=values, latency=False)
    assert found.report["drift"]["samples"] == 12
    assert found.report["sizes"]["inputs"] == {"x": [1, 64], "state": [2, 1, 5], "sr": []}
    with pytest.raises(DataError, match="--input-value state:0"):
        onnxprune.prune(model, calibration=tmp_path)


def damaged(path: Path, **_: Any) -> None:
    write(path, noise(64))
    content = bytearray(path.read_bytes())
    content[20] = 3  # floats
    path.write_bytes(content)


def test_what_is_no_recording_is_refused_by_name(tmp_path: Path) -> None:
    damaged(tmp_path / "float.wav")
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "short.wav").write_bytes(b"RIFF\0\0")
    write(tmp_path / "empty.wav", noise(0))
    for name, words in (("float", "PCM"), ("text", "PCM"), ("short", "PCM"), ("empty", "no samples")):
        with pytest.raises(DataError, match=words) as caught:
            rows(tmp_path / f"{name}.wav")
        assert f"{name}.wav" in str(caught.value)


def test_a_recording_has_as_many_rows_as_its_bytes_whatever_it_claims(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", noise(128))
    content = bytearray(path.read_bytes())
    content[40:44] = (1 << 31).to_bytes(4, "little")
    path.write_bytes(content)
    assert len(rows(path)) == 2
    path.write_bytes(content[:-100])
    (found,) = rows(path)
    np.testing.assert_allclose(found, noise(128)[:64, 0], atol=1e-4)


def test_options_that_make_no_sense(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", noise(100), rate=8000)
    write(tmp_path / "b.wav", noise(100), rate=16000)
    with pytest.raises(DataError, match=r"8000, 16000 samples per second; say --audio-rate"):
        rows(tmp_path)
    assert len(rows(tmp_path, rate=16000)) == 4
    with pytest.raises(DataError, match="takes 64 samples"):
        rows(tmp_path / "a.wav", window=32)
    spectrum = network(
        "f = Flatten(x); p = MatMul(f, %128x16); y = MatMul(p, %16x5)", "float[N,8,16] x", "float[N,5] y"
    )
    with pytest.raises(DataError, match="takes no plain sound"):
        rows(tmp_path / "a.wav", spectrum)
    for options in ({"rate": 0}, {"window": -1}, {"hop": 0}, {"scale": 0.0}, {"scale": np.inf}):
        with pytest.raises(UsageError):
            AudioOptions(**options)


def test_the_command_line_and_files_read_recordings(tmp_path: Path) -> None:
    onnx.save(NETWORK, tmp_path / "net.onnx")
    (tmp_path / "takes").mkdir()
    write(tmp_path / "takes" / "a.wav", noise(3000), rate=44100)
    run = [str(tmp_path / "net.onnx"), "--calib", str(tmp_path / "takes"), "--no-latency", "--dry-run"]
    (tmp_path / "config.toml").write_text("audio-rate = 16000\naudio-hop = 32\n")
    texts = [
        CliRunner().invoke(main, [*run, *more])
        for more in (["--audio-rate", "16000", "--audio-hop", "32"], ["--config", str(tmp_path / "config.toml")])
    ]
    assert [text.exit_code for text in texts] == [0, 0], texts[0].output
    assert "drift over 33 samples" in texts[0].stdout
    assert texts[0].stdout == texts[1].stdout
