"""SIRENs of other programs: reading, writing, initialising in place."""
