"""Errors, settings, files, locks, clock, terminal: nothing about SIRENs."""
