"""Utility: what is left of everything that should stay."""
