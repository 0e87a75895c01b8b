"""Spectra of a model's weights, and what they mean."""
