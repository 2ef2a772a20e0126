"""In a checkout the command line lies in the folder ``cli`` beside this package; an installed package has it here."""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2] / "cli")]  # before what is imported from there

from onnxprune.cli.app import main

__all__ = ["main"]
