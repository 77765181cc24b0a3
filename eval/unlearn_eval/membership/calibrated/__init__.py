"""Attacks that need other models, or records that were never seen."""
