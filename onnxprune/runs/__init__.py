"""Whole runs, from a loaded model to a checked, measured and judged result.

``run``: the run itself; ``legs``: the way it takes, a leg per kind of change and step; ``mix``: how several kinds share what is to
be saved; ``turning``: whether streams are turned first; ``signing``: the last look at a result; ``reports``: of models as they are; ``sweep``: many runs.
"""
