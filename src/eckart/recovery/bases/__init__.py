"""Basis selection: a weight as a sum of bases, which of them an application needs, and what they mean."""

from eckart.recovery.bases.linear import BasisLinear
from eckart.recovery.bases.selection import Selecting, ranks

__all__ = ["BasisLinear", "Selecting", "ranks"]
