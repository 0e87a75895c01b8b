"""A short training behind a cut: on the windows calibrated on, say what the dense model said."""

from eckart.compression.imitation.answers import Answers, UnknownHeadError
from eckart.compression.imitation.training import UNTRAINED, Imitation

__all__ = ["UNTRAINED", "Answers", "Imitation", "UnknownHeadError"]
