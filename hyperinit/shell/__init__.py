"""Around the commands: shell completion, and a check whether they will work on this machine."""
