"""Pictures brought to a model's size, and their colours to its order, computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from PIL import Image
from support.networks import network

import onnxprune
from onnxprune.cli import main
from onnxprune.data import ImageOptions, InputSpec, open_dataset
from onnxprune.errors import DataError, UsageError

INPUT = InputSpec("x", np.dtype(np.float32), ("N", 3, 4, 8))
FREE = InputSpec("x", np.dtype(np.float32), ("N", 3, "H", "W"))


def picture(folder: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(folder / "0.png")
    return folder


def fed(data: Any, spec: InputSpec = INPUT, **options: Any) -> np.ndarray:
    return next(open_dataset(data, [spec], images=ImageOptions(layout="NCHW", scale=1.0, **options)).batches(1))["x"][0]


def test_colours_come_in_the_order_of_the_model(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:] = (10, 20, 30)
    picture(tmp_path, pixels)
    assert fed(tmp_path)[:, 0, 0].tolist() == [10, 20, 30]
    assert fed(tmp_path, channel_order="BGR")[:, 0, 0].tolist() == [30, 20, 10]
    assert fed(pixels[None], channel_order="BGR")[:, 0, 0].tolist() == [30, 20, 10]
    shifted = fed(tmp_path, channel_order="BGR", mean=(1.0, 2.0, 3.0))  # the mean is of the channels as fed
    assert shifted[:, 0, 0].tolist() == [29, 18, 7]


def test_grey_pictures_have_no_order(tmp_path: Path) -> None:
    spec = InputSpec("x", np.dtype(np.float32), ("N", 1, 2, 2))
    assert fed(picture(tmp_path, np.full((2, 2), 9, np.uint8)), spec, channel_order="BGR").tolist() == [
        [[9, 9], [9, 9]]
    ]


def test_a_letterbox_holds_the_whole_picture(tmp_path: Path) -> None:
    """2 x 2 white into 4 x 8: 4 x 4 white in the middle, two columns of grey on either side."""
    picture(tmp_path, np.full((2, 2, 3), 255, np.uint8))
    expected = np.full((3, 4, 8), 114.0)
    expected[:, :, 2:6] = 255
    np.testing.assert_array_equal(fed(tmp_path, fit="letterbox"), expected)
    expected[:, :, :2] = expected[:, :, 6:] = 0
    np.testing.assert_array_equal(fed(tmp_path, fit="letterbox", fill=0), expected)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGBA", 4)])
def test_letterboxes_of_other_modes(mode: str, channels: int, tmp_path: Path) -> None:
    spec = InputSpec("x", np.dtype(np.float32), ("N", channels, 2, 4))
    Image.new(mode, (1, 1), "white").save(tmp_path / "0.png")
    found = fed(tmp_path, spec, fit="letterbox")
    assert found[0].tolist() == [[114, 255, 255, 114]] * 2
    assert channels == 1 or found[3].tolist() == [[255] * 4] * 2


def test_stretched_pictures_lose_nothing(tmp_path: Path) -> None:
    halves = np.zeros((4, 4, 3), np.uint8)
    halves[:, 2:] = 200
    found = fed(picture(tmp_path, halves), fit="stretch")
    assert found[0, 0, :2].tolist() == [0, 0]
    assert found[0, 0, 6:].tolist() == [200, 200]


def test_a_centre_is_cut_out_after_resizing(tmp_path: Path) -> None:
    """8 x 16 with a bright frame of two pixels: at 8 pixels of height, the 4 x 8 in the middle are dark."""
    framed = np.full((8, 16, 3), 250, np.uint8)
    framed[2:6, 2:14] = 5
    picture(tmp_path, framed)
    assert (fed(tmp_path, resize=8) == 5).all()
    assert fed(tmp_path).max() > 200


def test_an_open_size_is_given_by_the_shape_of_the_input(tmp_path: Path) -> None:
    picture(tmp_path, np.full((6, 6, 3), 7, np.uint8))
    with pytest.raises(DataError, match="--input-shape x:1,3,224,224"):
        fed(tmp_path, FREE)
    data = open_dataset(tmp_path, [FREE], sizes={"x": (1, 3, 8, 6)})
    assert next(data.batches(1))["x"].shape == (1, 3, 8, 6)


@pytest.mark.parametrize(
    "options",
    [{"channel_order": "GBR"}, {"fit": "squeeze"}, {"resize": 0}, {"resize": 8, "fit": "stretch"}, {"fill": 256}],
)
def test_options_that_make_no_sense(options: Any) -> None:
    with pytest.raises(UsageError):
        ImageOptions(**options)


def test_the_command_line_and_files_take_the_options(tmp_path: Path) -> None:
    body = "p = Conv(x, %16x3x3x3); r = Relu(p); q = Conv(r, %5x16x1x1); g = GlobalAveragePool(q); y = Flatten(g)"
    model = network(body, "float[N,3,H,W] x", "float[N,5] y")
    onnx.save(model, tmp_path / "net.onnx")
    (tmp_path / "pictures").mkdir()
    draw = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(draw.integers(0, 256, (20 + number, 30, 3), np.uint8)).save(tmp_path / f"pictures/{number}.png")
    options = ["--input-shape", "x:1,3,16,16", "--channel-order", "BGR", "--fit", "letterbox", "--fill", "0"]
    run = [str(tmp_path / "net.onnx"), "--calib", str(tmp_path / "pictures"), "--no-latency", "--dry-run"]
    lines = ['input-shape = ["x:1,3,16,16"]', 'channel-order = "BGR"', 'fit = "letterbox"', "fill = 0"]
    (tmp_path / "config.toml").write_text("\n".join(lines))
    texts = [CliRunner().invoke(main, [*run, *more]) for more in (options, ["--config", str(tmp_path / "config.toml")])]
    assert [text.exit_code for text in texts] == [0, 0], texts[0].output
    assert "costs at 1x3x16x16, from --input-shape" in texts[0].stdout
    assert texts[0].stdout == texts[1].stdout
    in_python = onnxprune.prune(
        model, calibration=tmp_path / "pictures", input_shape={"x": (1, 3, 16, 16)}, latency=False,
        images=ImageOptions(channel_order="BGR", fit="letterbox", fill=0),
    )  # fmt: skip
    assert f"{in_python.report['drift']['outputs']['y']['cosine']:.4f}" in texts[0].stdout
