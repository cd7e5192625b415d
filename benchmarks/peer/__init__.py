"""What `benchmarks/peers.py` is made of: the peers, the runner that takes turns, the report."""
