"""The parts of `benchmarks/peers.py`: the peers, the runner that takes turns, the report."""
