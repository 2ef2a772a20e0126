"""Single weights as a kind of change: layers keep their shapes, and so many of their weights are zero (``--sparsity``).

``patterns``: which places may be zero; ``layers``: what has weights to lose; ``shares``: how many go where; ``masks``: decisions of other
tools, and files for them; ``space``: the kind itself.
"""
