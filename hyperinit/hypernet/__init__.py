"""The hypernetwork and other trained inits, pretrained ones included."""
