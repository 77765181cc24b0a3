"""Training with differential privacy: clipped gradients of units, Poisson sampling, noise."""
