"""Loggers by name, beside a run's own log."""
