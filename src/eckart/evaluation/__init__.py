"""A model in, numbers out. Each task is a function from a loaded model to a `Score`."""

from eckart.evaluation.divergence import Moved, Reference
from eckart.evaluation.perplexity import perplexity
from eckart.evaluation.pocket import pocket_code, pocket_math, pocket_stories
from eckart.evaluation.score import Score, lower_is_better
from eckart.evaluation.stsb import stsb

__all__ = [
    "Moved",
    "Reference",
    "Score",
    "lower_is_better",
    "perplexity",
    "pocket_code",
    "pocket_math",
    "pocket_stories",
    "stsb",
]
