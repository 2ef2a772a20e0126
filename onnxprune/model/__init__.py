"""The file: its graph, its tensors, what is known of both, and how it is read, run and written."""
