"""What can become of a model, one folder per kind, and the plan that records it."""
