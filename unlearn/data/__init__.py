"""Records, and how they become batches of tokens."""
