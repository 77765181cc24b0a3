"""Choosing options for methods by trials on records that are not reported."""
