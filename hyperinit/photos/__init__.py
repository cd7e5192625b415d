"""Data sets and directories -> train and held-out lists."""
