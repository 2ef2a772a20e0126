"""Every error that onnxprune raises on purpose, each with the exit code the command line returns.

    OnnxPruneError
    ├── UsageError           2   an option, pattern or configuration that makes no sense
    ├── InputError           3   a file that cannot be read or processed
    │   ├── ModelError       3   ... the model
    │   ├── DataError        3   ... calibration or validation data
    │   └── PlanError        3   ... a plan, or a plan that does not fit the model
    ├── OutputError          3   a result that cannot be written
    ├── SurgeryError         3   the pruned model is not the original with units silenced
    ├── TargetError          4   the target is out of reach, or nothing can be pruned
    │   └── UnprovenError    4   ... with a proof: not everything could be seen
    ├── GateFailed           1   a budget was missed
    └── Inconclusive         5   a measurement too noisy to decide (with --strict)

A message says what happened, where, and what to do next; it never needs a traceback to be understood.
"""

from __future__ import annotations


class OnnxPruneError(Exception):
    """Base of all errors meant for the user; ``exit_code`` is the process exit code."""

    exit_code = 3


class UsageError(OnnxPruneError):
    """The caller asked for something that makes no sense."""

    exit_code = 2


class InputError(OnnxPruneError):
    """An input file cannot be read or processed."""


class ModelError(InputError):
    """The model cannot be read, understood or processed."""


class DataError(InputError):
    """Calibration or validation data cannot be used with the model."""


class PlanError(InputError):
    """A plan cannot be read, or does not fit the model."""


class OutputError(OnnxPruneError):
    """A result cannot be written; nothing was left half-written."""


class SurgeryError(OnnxPruneError):
    """The pruned model does not compute what the original computes with the removed units silenced."""


class TargetError(OnnxPruneError):
    """The target cannot be reached; ``best`` is the closest value that can."""

    exit_code = 4

    def __init__(self, message: str, best: float | None = None):
        super().__init__(message)
        self.best = best


class UnprovenError(TargetError):
    """The result agrees wherever it could be compared, but not all of it was seen."""


class GateFailed(OnnxPruneError):
    """The result misses a budget the caller set."""

    exit_code = 1


class Inconclusive(OnnxPruneError):
    """A measurement was too noisy to decide a gate."""

    exit_code = 5
