"""What a proof by comparison is made of: inputs to run on, values to look at, stand-ins for what cannot be run, distances."""
