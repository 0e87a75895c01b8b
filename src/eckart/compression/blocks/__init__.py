"""The store that has one block of a model in memory at a time, in pieces that a crash does not undo."""

from eckart.compression.blocks.job import Job, settled
from eckart.compression.blocks.portion import needed

__all__ = ["Job", "needed", "settled"]
