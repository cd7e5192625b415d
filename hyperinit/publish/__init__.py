"""Records -> what others can use: a file to submit, a leaderboard with its rules, LaTeX."""
