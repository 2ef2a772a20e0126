"""In a checkout the command line lies in the folder ``cli`` beside this package; an installed package has it here."""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2] / "cli")]

from onnxprune.cli.app import main  # noqa: E402  (found by the path above)

__all__ = ["main"]
