"""Directions: pruning in the Kronecker-factored eigenbasis, one more kind of unit, written as thin layers around a smaller one."""

from onnxprune.eigen.basis import Basis, eigenbases
from onnxprune.eigen.choose import Cut, choose_cuts, cut_to, full_cut
from onnxprune.eigen.costs import totals
from onnxprune.eigen.layers import Layer, Layers, find_layers
from onnxprune.eigen.proof import check_factors
from onnxprune.eigen.surgery import projected, subspaces, with_factors

__all__ = [
    "Basis",
    "Cut",
    "Layer",
    "Layers",
    "check_factors",
    "choose_cuts",
    "cut_to",
    "eigenbases",
    "find_layers",
    "full_cut",
    "projected",
    "subspaces",
    "totals",
    "with_factors",
]
