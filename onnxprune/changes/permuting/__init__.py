"""Channels of a group in another order, so that N of every M weights along the contraction keep more (``--permute``).

``readers``: which layers count the channels of a group in a pattern; ``weighing``: what their weights say; ``assigning``: the search for
an order; ``space``: the kind itself.
"""
