"""Target profiles of --round-to: widths are their multiples, runs record them, the documents show the whole table."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import ModelProto
from support.networks import network

import onnxprune
from onnxprune.allocate import PROFILES, profile_name, width_step
from onnxprune.cli import main
from onnxprune.errors import UsageError

ROOT = Path(__file__).parents[2]
CNN = ROOT / "models" / "digits_cnn.onnx"


@pytest.fixture(scope="module")
def chain() -> ModelProto:
    """Convolutions of 100 and 136 channels: widths that are a multiple of no profile's number above 8."""
    body = "[c1] a = Conv(x, %100x3x1x1); r = Relu(a); [c2] b = Conv(r, %136x100x1x1); s = Relu(b); y = Conv(s, %5x136x1x1)"
    return network(body, "float[1,3,4,4] x", "float[1,5,4,4] y")


@pytest.mark.parametrize("name", PROFILES)
def test_widths_are_multiples_of_the_profile(chain: ModelProto, name: str) -> None:
    result = onnxprune.prune(chain, ratio=0.4, round_to=name, latency=False)
    first, second, _ = (tuple(tensor.dims) for tensor in result.model.graph.initializer)
    assert first[0] == second[1] < 100 and second[0] < 136
    assert {first[0] % PROFILES[name].multiple, second[0] % PROFILES[name].multiple} == {0}
    assert first[0] == _nearest(60, PROFILES[name].multiple)
    plain = onnxprune.prune(chain, ratio=0.4, round_to=PROFILES[name].multiple, latency=False)
    assert plain.model.graph == result.model.graph


def _nearest(wanted: int, multiple: int) -> int:
    return multiple * int(np.floor(wanted / multiple + 0.5))


@pytest.mark.parametrize("name", ["qnn-htp", "auto", 8])
def test_the_profile_is_recorded(name: str | int) -> None:
    result = onnxprune.prune(CNN, ratio=0.5, round_to=name, latency=False)
    for settings in (result.report["settings"], result.plan.settings):
        assert settings["round_to"] == width_step(name)
        assert settings["round_to_profile"] == profile_name(name)


def test_plans_carry_the_profile_over_the_command_line(tmp_path: Path) -> None:
    plan, report = tmp_path / "plan.json", tmp_path / "report.json"
    arguments = ["prune", str(CNN), str(tmp_path / "a.onnx"), "--round-to", "tensorrt-int8", "--no-latency"]
    done = CliRunner().invoke(main, [*arguments, "--plan", str(plan), "--json", str(report)])
    assert done.exit_code == 0, done.output
    for written in (plan, report):
        settings = json.loads(written.read_text())["settings"]
        assert (settings["round_to"], settings["round_to_profile"]) == (16, "tensorrt-int8")
    again = CliRunner().invoke(main, ["apply", str(plan), str(CNN), str(tmp_path / "b.onnx"), "--no-latency"])
    assert again.exit_code == 0, again.output
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_auto_is_the_profile_of_the_cpu() -> None:
    assert profile_name("auto", frozenset({"avx2", "avx512f"})) == "ort-cpu-avx512"
    assert profile_name("auto", frozenset({"avx2"})) == "ort-cpu"
    assert (width_step("auto", frozenset({"avx512f"})), width_step("auto", frozenset())) == (16, 8)
    assert profile_name("4") is None and width_step("4") == width_step(4) == 4


@pytest.mark.parametrize(
    ("text", "hint"),
    [("tensorrt_int8", "did you mean 'tensorrt-int8'"), ("htp-qnn2", "qnn-htp"), ("zzz", "known: auto, artpec-9")]
    + [(number, "whole number of at least 1") for number in ("0", "-8", "2.5", "²")],
)
def test_unknown_names_are_refused_with_near_names(tmp_path: Path, text: str, hint: str) -> None:
    with pytest.raises(UsageError, match=f"--round-to {re.escape(text)}"):
        width_step(text)
    out = tmp_path / "out.onnx"
    done = CliRunner().invoke(main, ["prune", str(CNN), str(out), f"--round-to={text}"])
    assert done.exit_code == 2 and hint in done.stderr and not out.exists()


def test_the_document_shows_the_table() -> None:
    rows = [line for line in (ROOT / "docs" / "targets.md").read_text().splitlines() if line.startswith("| `")]
    assert rows == [_row(name) for name in PROFILES]
    assert list(PROFILES) == sorted(PROFILES)


def _row(name: str) -> str:
    profile = PROFILES[name]
    links = "; ".join(f"[{title}]({url})" for title, url in profile.sources)
    assert profile.sources and all(url.startswith("https://") for _, url in profile.sources)
    return f"| `{name}` | {profile.multiple} | {profile.reason} | {links} |"
