"""Loggers by name, in addition to a run's own log."""
