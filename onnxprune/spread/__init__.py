"""Work that is shared out to the processes of this machine, or to those of a cluster."""

from onnxprune.spread.engines import check_spread, spread_by

__all__ = ["check_spread", "spread_by"]
