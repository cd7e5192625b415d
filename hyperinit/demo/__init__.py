"""Web pages: a live race of fits, and a gallery of finished ones."""
