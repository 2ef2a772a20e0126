"""How important each unit is: one registered function per criterion, and how its scores are combined."""

from onnxprune.criteria import ablated as _ablated  # noqa: F401  (these imports fill the registry)
from onnxprune.criteria import activation as _activation  # noqa: F401
from onnxprune.criteria import earlier as _earlier  # noqa: F401
from onnxprune.criteria import gradient as _gradient  # noqa: F401
from onnxprune.criteria import kronecker as _kronecker  # noqa: F401
from onnxprune.criteria import learned as _learned  # noqa: F401
from onnxprune.criteria import reconstruction as _reconstruction  # noqa: F401
from onnxprune.criteria import routing as _routing  # noqa: F401
from onnxprune.criteria import vulnerability as _vulnerability  # noqa: F401
from onnxprune.criteria import weight as _weight  # noqa: F401
from onnxprune.criteria.combine import Criterion, Scores, parse_criterion, score, score_group
from onnxprune.criteria.spec import CRITERIA

__all__ = ["CRITERIA", "Criterion", "Scores", "parse_criterion", "score", "score_group"]
