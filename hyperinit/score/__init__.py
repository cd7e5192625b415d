"""Records -> costs, ratios, intervals."""
