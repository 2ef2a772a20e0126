"""Whole runs, from a loaded model to a checked, measured and judged result.

``stages``: the parts that runs share; ``pipeline``: the run itself, and the reports of what was found on the way. Other
ways to a smaller model are runs that differ in what they choose: ``lossless`` (units that carry nothing), ``branches``
(residual branches), ``directions`` (of layers' eigenbases), ``steps`` (schedules and rewinding); ``sweep``: many runs.
"""
