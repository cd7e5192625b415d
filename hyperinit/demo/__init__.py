"""The page where fits race."""
