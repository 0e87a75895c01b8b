"""Watch a model run on data and add up what its targets read, and what a loss says back to them.

It does not know what the sums are for.
"""

from eckart.calibrate.losses import TEMPERATURE, loss_for, softened, true_labels
from eckart.calibrate.observed import GRADIENT_KINDS, INPUT_KINDS, Observed, merge
from eckart.calibrate.packing import pack, unpack
from eckart.calibrate.pairs import Pair
from eckart.calibrate.rows import PaddingUnknownError
from eckart.calibrate.sampling import sample
from eckart.calibrate.walk import NotWalkableError, Walk
from eckart.calibrate.watch import Loss, watch

__all__ = [
    "GRADIENT_KINDS",
    "INPUT_KINDS",
    "TEMPERATURE",
    "Loss",
    "NotWalkableError",
    "Observed",
    "PaddingUnknownError",
    "Pair",
    "Walk",
    "loss_for",
    "merge",
    "pack",
    "sample",
    "softened",
    "true_labels",
    "unpack",
    "watch",
]
