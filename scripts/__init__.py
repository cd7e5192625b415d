"""Thin ways into the commands, for a checkout."""
