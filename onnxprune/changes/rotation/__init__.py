"""Residual streams in the basis of their data, so that what is cut of them says least (``--rotate``)."""
