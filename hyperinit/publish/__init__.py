"""Records -> files for others: a submission, a leaderboard with its rules, LaTeX."""
