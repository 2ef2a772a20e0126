"""What a model is for, told from its outputs or named, and how much of it another model still does: judged without labels."""
