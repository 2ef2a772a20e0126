"""Tensors stored in fewer bytes, decoded by standard operators that a runtime folds when it loads the file."""
