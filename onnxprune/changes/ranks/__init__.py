"""Layers as factors of lower rank, one more kind of unit: by regression on data, or in the Kronecker-factored eigenbasis."""

from onnxprune.changes.ranks.basis import Basis, Cut, full_cut
from onnxprune.changes.ranks.choose import Rules, choose_cuts
from onnxprune.changes.ranks.costs import factored_totals
from onnxprune.changes.ranks.eigen import Eigenbasis, cut_to, eigenbases
from onnxprune.changes.ranks.layers import Layer, Layers, find_layers
from onnxprune.changes.ranks.regression import Regression, regressed, regressions
from onnxprune.changes.ranks.surgery import form_limits, projected, with_factors

__all__ = [
    "Basis",
    "Cut",
    "Eigenbasis",
    "Layer",
    "Layers",
    "Regression",
    "Rules",
    "choose_cuts",
    "cut_to",
    "eigenbases",
    "factored_totals",
    "find_layers",
    "form_limits",
    "full_cut",
    "projected",
    "regressed",
    "regressions",
    "with_factors",
]
