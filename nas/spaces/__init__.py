"""A search space: its file, exact counting, uniform sampling under budgets."""
