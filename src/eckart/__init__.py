"""Eckart makes pretrained transformers smaller with low-rank structure, and says what that cost.

Importing it teaches transformers to load the models it saves, by plain `from_pretrained`.
"""

from eckart.model.portable import LowRankLinear, PivotedLinear
from eckart.pipeline import compress, evaluate, plan, verify
from eckart.types import EckartError, UsageError

__all__ = [
    "EckartError",
    "LowRankLinear",
    "PivotedLinear",
    "UsageError",
    "compress",
    "evaluate",
    "plan",
    "verify",
]
