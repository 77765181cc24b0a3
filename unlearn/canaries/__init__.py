"""Canaries: pairs of invented records, of each of which a coin left one out of the training."""
