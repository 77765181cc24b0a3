"""Deletion by construction: training that never saw the records."""
