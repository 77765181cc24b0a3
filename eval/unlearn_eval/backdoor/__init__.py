"""Backdoors: whether a trigger still calls for its target, and which records taught it."""
