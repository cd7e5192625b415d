"""The commands."""

import os

# Threads that wait for work must not keep a core busy that another process could use: otherwise, on
# a busy machine two threads take five to fourteen times as long as one. torch reads this when it is
# imported, which every command does later.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
