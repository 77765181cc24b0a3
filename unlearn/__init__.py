"""Placeholder until the flat public API is assembled."""

__version__ = "0.1.0"
