"""The width inside of heads: which channels of which tensors may share a basis, and what a basis makes of them."""
