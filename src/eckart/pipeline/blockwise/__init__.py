"""The main job with one block of the model in memory at a time, in pieces that a crash does not undo."""

from eckart.pipeline.blockwise.compressing import Job, settled
from eckart.pipeline.blockwise.fitting import needed

__all__ = ["Job", "needed", "settled"]
