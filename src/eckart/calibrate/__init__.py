"""Watch a model run on data and add up what its targets read, and what a loss says back to them.

It does not know what the sums are for.
"""

from eckart.calibrate.blocks import BlockOptions, Finished, Resident, watch_blocks
from eckart.calibrate.losses import TEMPERATURE, loss_for, softened, true_labels
from eckart.calibrate.observed import GRADIENT_KINDS, INPUT_KINDS, Observed, merge
from eckart.calibrate.packing import pack, unpack
from eckart.calibrate.pairs import Pair
from eckart.calibrate.passes import NotWalkableError, Shelf
from eckart.calibrate.reducing import reduced
from eckart.calibrate.rows import PaddingUnknownError, count_tokens
from eckart.calibrate.sampling import sample
from eckart.calibrate.walk import Walk, require_walkable
from eckart.calibrate.watch import WIDEST, Loss, spaces_of, watch

__all__ = [
    "GRADIENT_KINDS",
    "INPUT_KINDS",
    "TEMPERATURE",
    "WIDEST",
    "BlockOptions",
    "Finished",
    "Loss",
    "NotWalkableError",
    "Observed",
    "PaddingUnknownError",
    "Pair",
    "Resident",
    "Shelf",
    "Walk",
    "count_tokens",
    "loss_for",
    "merge",
    "pack",
    "reduced",
    "require_walkable",
    "sample",
    "softened",
    "spaces_of",
    "true_labels",
    "unpack",
    "watch",
    "watch_blocks",
]
