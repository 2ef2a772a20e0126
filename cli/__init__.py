"""The command line: ``onnxprune MODEL`` prunes; every other command is one file in ``commands``."""

from onnxprune.cli.app import main

__all__ = ["main"]
