"""Measure what a language model still knows about given records."""
