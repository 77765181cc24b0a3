"""Training: objective, options, trainer, stop rules."""
