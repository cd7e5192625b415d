"""A set of images -> a fitted SIREN each, from starts that get better on the way."""
