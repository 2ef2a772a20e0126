"""Directions: pruning in the Kronecker-factored eigenbasis, one more kind of unit, written as thin layers around a smaller one."""

from onnxprune.changes.ranks.basis import Basis, eigenbases
from onnxprune.changes.ranks.choose import Cut, choose_cuts, cut_to, full_cut
from onnxprune.changes.ranks.costs import factored_totals
from onnxprune.changes.ranks.layers import Layer, Layers, find_layers
from onnxprune.changes.ranks.surgery import projected, subspaces, with_factors

__all__ = [
    "Basis",
    "Cut",
    "Layer",
    "Layers",
    "choose_cuts",
    "cut_to",
    "eigenbases",
    "factored_totals",
    "find_layers",
    "full_cut",
    "projected",
    "subspaces",
    "with_factors",
]
