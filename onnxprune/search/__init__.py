"""Which units go when calibration data decides: error tables, widths under a budget, and a short search on the real model.

Tables: each group's greedy removal order and error at the nodes that read it, on the original (layer OBS). Widths: the
cheapest error per unit of cost, for several ways of weighing one node's error against another's, since no single one wins. Each
proposal is then repaired on one part of the data and judged by the divergence of the final outputs on another.
"""

from onnxprune.search.ending import SearchEnd
from onnxprune.search.reconstruct import Fitting, Reconstruction, reconstruct
from onnxprune.search.run import FIT, HELD_OUT, JUDGE, Goal, SearchResult, search_units
from onnxprune.search.tables import Tables, error_tables
from onnxprune.search.widths import WEIGHINGS, Proposal, Search

__all__ = [
    "FIT",
    "HELD_OUT",
    "JUDGE",
    "WEIGHINGS",
    "Fitting",
    "Goal",
    "Proposal",
    "Reconstruction",
    "Search",
    "SearchEnd",
    "SearchResult",
    "Tables",
    "error_tables",
    "reconstruct",
    "search_units",
]
