"""Inits x images x budgets -> records."""
