"""Residual streams: found, rid of their mean, turned to another basis."""
