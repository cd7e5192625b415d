"""The protocol, the records of fits, their thumbnails."""
