"""Backdoors planted in records, to measure them and to unlearn them: data only, no model."""
