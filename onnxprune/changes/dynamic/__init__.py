"""Work decided per sample: the pruned model runs first, and the original where a gate says so."""
