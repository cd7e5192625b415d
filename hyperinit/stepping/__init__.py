"""One step of a fit: its pixels, the gradient, the update and the learning rate."""
