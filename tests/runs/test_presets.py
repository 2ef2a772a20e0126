"""``preset``: names for sets of options, which what is given overrides, and which a report and a plan show as plain options."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import onnxprune
from onnxprune.choices import PRESETS, of_preset
from onnxprune.cli import main
from onnxprune.errors import OnnxPruneError, UsageError
from onnxprune.progress import silent
from onnxprune.runs.expected import in_words
from onnxprune.settings import GRANULARITIES, Settings, make_settings

ROOT = Path(__file__).parents[2]
CNN, CALIB = ROOT / "models" / "digits_cnn.onnx", ROOT / "models" / "digits_calib.npz"
CHECKED = ("search", "recover", "samples", "criterion", "rotate")


def run(*arguments: object, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, [str(word) for word in arguments], env=env)


def settings(*options: object, env: dict[str, str] | None = None) -> dict[str, Any]:
    result = run(CNN, "--dry-run", "--no-latency", "--json", "-", *options, env=env)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["settings"]


def test_a_preset_is_plain_options() -> None:
    assert make_settings({"preset": "best"}) == Settings(search=60.0, recover="500")
    assert make_settings({"preset": "fast"}) == Settings(criterion="l2", rotate=False, samples=256)
    for name, options in PRESETS.items():
        without_data = {key: value for key, value in options.items() if key != "repair"}
        assert make_settings({"preset": name}) == make_settings(without_data)


def test_what_is_given_wins() -> None:
    found = make_settings({"preset": "best", "recover": "20", "samples": 5, "search": 0.0})
    assert found == Settings(recover="20", samples=5)
    assert make_settings({"preset": "fast", "criterion": "fpgm"}).criterion == "fpgm"
    assert make_settings({"preset": "best", "criterion": "l1"}).search == 0, "a search chooses by itself"


GIVEN: tuple[dict[str, Any], ...] = (
    *({"granularity": name} for name in GRANULARITIES),
    *({"granularity": f"{name},heads", "target": "macs=50%"} for name in ("block", "rank", "experts")),
    {"lossless": True}, {"low_rank": True}, {"sparsity": "2:4"}, {"structured": False}, {"untrained": True},
    {"storage": "auto", "ratio": 0}, {"quantize": "int8", "ratio": 0}, {"max_divergence": 0.1}, {"criterion": "gates"},
    {"repair": "none"}, {"repair": "bias", "criterion": "wanda"}, {"recover_loss": "blocks"}, {"schedule": "linear:2"},
    {"selection": "greedy", "criterion": "l1"}, {"rotate": True}, {"vocabulary": "words.txt"},
)  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_goes_with_whatever_is_asked_for(preset: str) -> None:
    """What it adds and something given does not take is left out: nobody is told to leave out what he did not give."""
    for given in GIVEN:
        make_settings(given)
        found = make_settings({"preset": preset, **given})
        assert all(getattr(found, name) == getattr(make_settings(given), name) for name in given if name in CHECKED)
        make_settings(given | of_preset(preset, given, fits=True))


def test_the_same_from_everywhere(tmp_path: Path) -> None:
    config = tmp_path / "prune.toml"
    config.write_text('preset = "fast"\n')
    said = settings("--preset", "fast", "--calib", CALIB)
    assert (said["criterion"], said["samples"], said["rotate"]) == ("l2:mean:mean", 256, False)
    assert said["repair"] == "least-squares"  # one fit, where auto tries all of them
    assert (
        settings("--preset", "fast")["repair"]
        == settings("--preset", "fast", "--repair", "auto", "--calib", CALIB)["repair"]
        == "auto"
    )
    assert settings("--config", config, "--calib", CALIB) == said
    assert settings("--calib", CALIB, env={"ONNXPRUNE_PRESET": "fast"}) == said
    python = onnxprune.prune(CNN, calibration=str(CALIB), preset="fast", latency=False)
    assert python.report["settings"] == said
    assert json.loads(python.plan.to_json())["settings"]["samples"] == 256


def test_a_job_names_a_preset(tmp_path: Path) -> None:
    config = tmp_path / "onnxprune.toml"
    config.write_text(
        f'[jobs.a]\nmodel = "{CNN}"\noutput = "a.onnx"\npreset = "fast"\nno-latency = true\ncalib = "{CALIB}"\n'
    )
    result = run("run", "--config", config, "--json", "-")
    assert [found[0] for found in EXPECTED.findall(result.stderr)] == ["a: "]
    assert json.loads(result.stdout)["jobs"]["a"]["settings"]["samples"] == 256, result.stderr


def test_a_preset_that_is_none() -> None:
    with pytest.raises(UsageError, match="unknown preset 'beste'; did you mean 'best'"):
        make_settings({"preset": "beste"})
    assert run(CNN, "--preset", "quick").exit_code == 2
    refused = run(CNN, "--preset", "best")
    assert (refused.exit_code, "give calibration data (--calib)" in refused.stderr) == (3, True)
    with pytest.raises(OnnxPruneError, match=r"give calibration data \(--calib\)"):
        onnxprune.prune(CNN, preset="best")


def test_help_and_documents_say_what_they_stand_for() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    for name, options in PRESETS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        for option, value in options.items():
            said = {"rotate": "--no-rotate", "search": f"--search {value}s".replace(".0s", "s")}
            assert said.get(option, f"--{option} {value}") in row, (name, option)


EXPECTED = re.compile(r"^((?:\w+: )?)expected: about (\d+) (s|min), (.*); (.*) \((\w+): \d+ (?:s|min)\)$", re.M)


def test_a_preset_says_what_to_expect_and_nothing_else_does() -> None:
    words = (CNN, "--dry-run", "--no-latency")
    (found,) = EXPECTED.findall(run(*words, "--preset", "fast", "--calib", CALIB).stderr)
    assert re.fullmatch(r"at [\d.e-]+ ms a row, which was measured", found[3])
    (found,) = EXPECTED.findall(run(*words, env={"ONNXPRUNE_PRESET": "fast"}).stderr)
    assert found[3] == "as its size says"
    for quiet in ((*words, "--calib", CALIB, "--criterion", "l2"), (*words, "--preset", "fast", "-q")):
        assert not EXPECTED.search(run(*quiet).stderr)


class Enough(Exception):
    """Ends a run that has said what it was asked for."""


def test_what_to_expect_has_the_time_that_is_asked_for() -> None:
    def told(preset: str) -> float:
        said: list[str] = []

        def note(text: str) -> None:
            said.append(text)
            raise Enough

        with pytest.raises(Enough):
            onnxprune.prune(CNN, calibration=str(CALIB), preset=preset, progress=replace(silent, told=note))
        (found,) = EXPECTED.findall(said[0])
        return float(found[1]) * (60 if found[2] == "min" else 1)

    assert told("fast") <= told("balanced") < 60 <= told("best")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (7.6, "8 s"), (47.0, "45 s"), (149.0, "150 s"), (151.0, "3 min"), (3600, "60 min")]
)  # fmt: skip
def test_seconds_are_said_no_finer_than_they_are_known(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
