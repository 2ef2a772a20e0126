"""Units: channels, heads and neurons, the positions that go together; and the ways to choose among them."""
