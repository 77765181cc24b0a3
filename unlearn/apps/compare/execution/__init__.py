"""Doing the steps of a comparison: in this process, in several, or on a cluster."""
