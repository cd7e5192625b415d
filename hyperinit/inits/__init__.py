"""Hand-designed rules, and the `Start` that every init returns."""
