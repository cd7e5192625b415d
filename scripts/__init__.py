"""Thin wrappers of the commands, for a checkout."""
