"""Image files <-> tensors (3, H, W) in [0, 1], coordinates, colours."""
