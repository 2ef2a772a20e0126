"""Checkpoints of training frameworks: which of their tensors are which of a model, and what a plan leaves of them."""
