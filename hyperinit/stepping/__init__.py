"""One step of a fit: which pixels, their gradient, the update, its rate."""
