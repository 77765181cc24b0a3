"""An audit: what the states of a model say about records, as a table."""
