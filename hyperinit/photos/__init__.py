"""Directories of photographs -> train and held-out lists."""
