"""What was asked for against what came out: a target that is missed is an error, one that is far exceeded is said."""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.allocate import Target
from onnxprune.allocate.target import KINDS
from onnxprune.errors import TargetError

TITLES = {"macs": "MACs", "parameters": "parameters", "bytes": "bytes"}
SLACK = 1e-9
FAR = 0.1  # share of the target (points of a ratio) by which a result may exceed it unsaid


def require_met(aim: Target, before: Mapping[str, int], after: Mapping[str, int], round_to: int) -> str:
    """Return what to say of a result that goes much further than ``aim`` ("": nothing); raises TargetError where it misses it.

    ``before``, ``after``: totals of the original and of what would be written, MACs of one sample.
    """
    key = KINDS[aim.kind]
    limit, value, whole = aim.budget(float(before[key])), float(after[key]), float(before[key])
    if value > limit * (1 + SLACK):
        raise TargetError(
            f"--target {aim} is missed: the result would have {value:,.0f} {TITLES[key]} ({value / whole:.1%} of the original), "
            f"{limit:,.0f} were asked for. Nothing was written; ask for less, or relax --exclude, --round-to or --max-layer-ratio",
            value,
        )
    if value >= (1 - FAR) * limit:
        return ""
    return f"{limit / whole:.1%} of the {TITLES[key]} were asked for, {value / whole:.1%} are left{_why(round_to)}"


def ratio_met(aim: Target, gone: float, round_to: int) -> str:
    """Return what to say where the share of units that went is far from ``aim``; raises TargetError where nothing went."""
    if gone == 0:
        raise TargetError(
            f"--ratio {aim.value:g} removed nothing{_why(round_to)}. Nothing was written; ask for more, or for narrower steps "
            "(--round-to 1)",
            0.0,
        )
    if abs(gone - aim.value) <= FAR:
        return ""
    return f"{aim.value:.1%} of the units were asked for, {gone:.1%} went{_why(round_to)}"


def _why(round_to: int) -> str:
    return f": widths are multiples of {round_to} (--round-to 1 comes nearer)" if round_to > 1 else ""
