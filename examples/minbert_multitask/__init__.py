"""minBERT fine-tuned on three tasks at once."""
