"""Hand-written networks: the patterns that no model library carries in a small form."""
