"""Changes of a model that may bring records back, one file each."""
