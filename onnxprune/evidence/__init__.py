"""What calibration data shows about a model: needs, mergeable statistics, one streaming pass, a cache."""

from onnxprune.evidence.collect import collect
from onnxprune.evidence.needs import Need, Window, merged
from onnxprune.evidence.rows import POSITIONS
from onnxprune.evidence.sites import REQUESTS, Site, requested, sites
from onnxprune.evidence.store import Cache, Evidence
from onnxprune.evidence.stream import gather

__all__ = [
    "POSITIONS",
    "REQUESTS",
    "Cache",
    "Evidence",
    "Need",
    "Site",
    "Window",
    "collect",
    "gather",
    "merged",
    "requested",
    "sites",
]
