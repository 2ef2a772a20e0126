"""Wherever a share is taken it may be a percentage: on the command line, in a file, in a variable and in Python, and it means the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import onnxprune
from onnxprune.changes.zeros.patterns import parse_pattern
from onnxprune.cli.app import main
from onnxprune.cli.config import converted, parameters
from onnxprune.errors import UsageError
from onnxprune.evidence.attacks import parse_attack
from onnxprune.measure.tasks.task import parse_task
from onnxprune.options import SHARES_BESIDE, CheckOptions, PruneOptions, parted
from onnxprune.settings import SHARES, Settings, make_settings

ROOT = Path(__file__).parents[2]
CNN = ROOT / "models" / "digits_cnn.onnx"
PAIRS = ("layer_ratio", "share")


@pytest.mark.parametrize("name", sorted(SHARES))
def test_in_python(name: str) -> None:
    beside = {"granularity": "heads,block", "target": "macs=50%"} if name == "share" else {}
    values: tuple[Any, Any] = ({"heads": "25%"}, {"heads": 0.25}) if name in PAIRS else ("25%", 0.25)
    plain = make_settings({name: values[1], **beside})
    assert make_settings({name: values[0], **beside}) == plain
    if name in PAIRS:
        assert make_settings({name: [("heads", "25 %")], **beside}) == plain


def test_what_is_no_percentage_is_refused() -> None:
    for wrong in ("a%", "%", "5%5", "1e3%"):
        with pytest.raises(UsageError, match="ratio takes a number, or None, not"):
            make_settings({"ratio": wrong})
    with pytest.raises(UsageError, match="learning_rate takes a number"):
        make_settings({"learning_rate": "1%"})


def test_beside_the_settings() -> None:
    assert parted({"tolerance": "3%"}, PruneOptions)[0]["tolerance"] == 0.03
    assert parted({"min_prunable": "80%"}, CheckOptions)[0]["min_prunable"] == 0.8
    assert "ratios" in SHARES_BESIDE


def test_every_share_of_the_command_line_reads_percentages() -> None:
    """An option whose number is one of ``SHARES`` reads 25% as 0.25 from the command line and from a file."""
    fields = {field.name for field in dataclasses.fields(Settings)}
    for name in main.list_commands(click.Context(main)):
        command = main.get_command(click.Context(main), name)
        assert command is not None
        for option in command.params:
            if option.name in SHARES | SHARES_BESIDE and isinstance(option, click.Option):
                text, value = ("x=25%", ("x", 0.25)) if option.name in PAIRS else ("25%", 0.25)
                expected = (value,) if option.name == "ratios" else value
                assert option.type.convert(text, option, None) == expected, (name, option.name)
    assert fields >= SHARES


@pytest.mark.parametrize("name", ["ratio", "max-layer-ratio", "max-drop", "min-agreement", "tolerance"])
def test_in_a_file(name: str) -> None:
    option = parameters("prune")[name]
    assert converted(option, "25%", name) == converted(option, 0.25, name) == 0.25


def test_in_a_variable() -> None:
    variables = {"ONNXPRUNE_RATIO": "25%", "ONNXPRUNE_MAX_LAYER_RATIO": "40%"}
    result = CliRunner().invoke(main, [str(CNN), "--dry-run", "--no-latency", "--json", "-"], env=variables)
    python = onnxprune.prune(CNN, ratio="25%", max_layer_ratio="40%", latency=False).report  # type: ignore[arg-type]
    assert '"ratio": 0.25' in result.stdout
    assert (python["settings"]["ratio"], python["settings"]["max_layer_ratio"]) == (0.25, 0.4)


def test_inside_other_options() -> None:
    assert parse_attack("pgd:3%") == parse_attack("pgd:0.03")
    assert parse_task("detection:confidence=30%,iou=60%") == parse_task("detection:confidence=0.3,iou=0.6")
    for text in ("70%", "70%,block=1x16"):
        assert parse_pattern(text) == parse_pattern(text.replace("70%", "0.7"))
    for name, text, same in (("target", "macs=50%", "macs=0.5x"), ("dynamic", "macs=75%", "macs=0.75x")):
        both = [make_settings({"target": "macs=40%", name: value}) for value in (text, same)]
        assert both[0].aim == both[1].aim and (not both[0].dynamic or both[0].expected == both[1].expected)
