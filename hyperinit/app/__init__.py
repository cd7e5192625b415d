"""The commands."""

import os

# Threads that wait for work must not keep a core busy that another process could use: on a busy
# machine two threads take five to fourteen times as long as one otherwise. It is read when torch is
# imported, which every command does after this.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
