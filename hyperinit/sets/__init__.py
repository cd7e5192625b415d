"""A set of images -> a fitted SIREN for each, from starts that may improve on the way."""
