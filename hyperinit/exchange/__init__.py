"""SIRENs of other programs: read, written, initialised in place."""
