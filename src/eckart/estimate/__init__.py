"""Sizes, budget, memory and time of a cut, before anything is run."""
