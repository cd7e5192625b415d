"""The protocol, the records of fits, and their thumbnails."""
