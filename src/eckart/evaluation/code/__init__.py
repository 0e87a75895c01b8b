"""Code that a model wrote: into programs, run behind limits, counted. HumanEval and MBPP."""

from eckart.evaluation.code.estimate import pass_at_k
from eckart.evaluation.code.items import Item, humaneval_items, mbpp_items
from eckart.evaluation.code.running import (
    RUNNING,
    Outcome,
    left_open,
    protection,
    require_permission,
    run_programs,
)

__all__ = [
    "RUNNING",
    "Item",
    "Outcome",
    "humaneval_items",
    "left_open",
    "mbpp_items",
    "pass_at_k",
    "protection",
    "require_permission",
    "run_programs",
]
