"""`unlearn request`: its verbs by what they do: take in, work off, show."""
