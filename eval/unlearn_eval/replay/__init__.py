"""Prove a deletion by training again from the lineage alone, and comparing the weights."""
