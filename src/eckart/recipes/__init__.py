"""The catalogue of rows and metrics, and the one place where options become a recipe."""

from eckart.recipes.catalogue import (
    METHODS,
    METRICS,
    MOMENTS,
    SELECTIONS,
    Gram,
    Method,
    Metric,
    find_method,
    find_metric,
)

__all__ = [
    "METHODS",
    "METRICS",
    "MOMENTS",
    "SELECTIONS",
    "Gram",
    "Method",
    "Metric",
    "find_method",
    "find_metric",
]
