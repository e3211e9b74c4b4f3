"""`python -m nas.scale`: the question, the choice of α, β, γ by trainings, the family; command in `__main__`."""
