"""Other tools take packed files as they are, and compute what the plain file gives (docs/storage.md)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from support.oracles import LEVELS
from test_interop import IMAGES, MODELS, NAMES, SAME, loaded, ncnn, onnxsim, onnxslim, ort_format, tflite

import onnxprune

EXPANDED_FIRST = {ncnn, tflite}
"""Converters that take constants alone as weights."""


@pytest.fixture(scope="module", params=[(NAMES[0], "packed:16"), (NAMES[1], "auto")], ids=lambda param: param[0])
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundled model, 70 % of its weights zeros, in packed storage, as a file; beside it the plain one."""
    (name, storage), folder = request.param, tmp_path_factory.mktemp("packed")
    model = onnx.load(MODELS / f"{name}.onnx")
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim > 1 and array.size > 500:
            array = array * (np.abs(array) >= np.quantile(np.abs(array), 0.7))
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))
    path = folder / f"{name}.onnx"
    found = onnxprune.prune(model, ratio=0, storage=storage, latency=False, output=path)
    assert any("bitmap" in row["form"] for row in found.report["storage"])
    (folder / "plain").mkdir()
    onnxprune.expand(path, folder / "plain" / path.name)
    return path


def plain(path: Path) -> Path:
    return path.parent / "plain" / path.name


@pytest.mark.parametrize("tool", [tool for tool in SAME if tool not in EXPANDED_FIRST], ids=lambda tool: tool.__name__)
def test_a_tool_takes_what_is_packed(packed: Path, tool: Callable, tmp_path: Path) -> None:
    found, expected = tool(packed, tmp_path)(IMAGES), loaded(plain(packed))(IMAGES)
    difference = np.abs(found - expected[: len(found)]).max() / np.abs(expected).max()
    print(f"{packed.stem} packed, through {tool.__name__}: {difference:.1e} of the largest output")
    assert difference <= SAME[tool]


@pytest.mark.parametrize("tool", sorted(EXPANDED_FIRST, key=lambda tool: tool.__name__), ids=lambda tool: tool.__name__)
def test_a_converter_takes_it_expanded(packed: Path, tool: Callable, tmp_path: Path) -> None:
    found, expected = tool(plain(packed), tmp_path)(IMAGES), loaded(packed)(IMAGES)
    assert np.abs(found - expected[: len(found)]).max() / np.abs(expected).max() <= SAME[tool]


@pytest.mark.parametrize("tool", [onnxsim, onnxslim, ort_format], ids=lambda tool: tool.__name__)
def test_what_a_tool_made_of_it_is_what_it_makes_of_the_plain_file(
    packed: Path, tool: Callable, tmp_path: Path
) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    one, two = tool(packed, tmp_path / "one")(IMAGES), tool(plain(packed), tmp_path / "two")(IMAGES)
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_at_every_level_it_gives_the_bits_of_the_plain_file(packed: Path, level: object) -> None:
    """Without layouts that ONNX Runtime prepares for constants: at the lowest level what is decoded in a run is none."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.add_session_config_entry("session.disable_prepacking", "1")
    found = [
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(
            None, {"image": IMAGES[:64]}
        )
        for path in (packed, plain(packed))
    ]
    np.testing.assert_array_equal(*(outputs[0] for outputs in found))
