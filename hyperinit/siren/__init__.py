"""The network, its parameters, their files."""
