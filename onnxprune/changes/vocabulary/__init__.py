"""Tokens that go: rows of the tables that numbers of tokens look up, and the positions of outputs that score tokens."""
