"""The main job with one block of the model in memory at a time, in pieces that a crash does not undo."""

from eckart.compression.blockwise.compressing import Job, settled
from eckart.compression.blockwise.fitting import needed

__all__ = ["Job", "needed", "settled"]
