"""A model in, numbers out. Each task is a function from a loaded model to a `Score`."""

from eckart.evaluate.perplexity import perplexity
from eckart.evaluate.pocket import pocket_code, pocket_math, pocket_stories
from eckart.evaluate.score import Score
from eckart.evaluate.stsb import stsb

__all__ = ["Score", "perplexity", "pocket_code", "pocket_math", "pocket_stories", "stsb"]
