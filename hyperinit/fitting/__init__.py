"""A start + an image -> a fitted SIREN."""
