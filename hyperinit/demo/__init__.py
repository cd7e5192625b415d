"""Pages for people: where fits race, and a gallery of those that are over."""
