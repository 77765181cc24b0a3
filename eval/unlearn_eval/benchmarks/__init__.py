"""Published evaluation protocols, composed from this package's own probes: one a file."""
