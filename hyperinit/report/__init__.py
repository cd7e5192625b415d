"""Scores -> tables, charts, the page, W&B."""
